package fabric

import (
	"context"

	"shoal/lb"
)

// Firewall lets what the fabric carries past the rules of this host, which
// shield its containers, and nothing else. A data plane is one.
type Firewall interface {
	// Between makes the rules as b says, whatever they are, and tells whether it
	// changed any. It is called before routes and devices are written, and again
	// for repair. It writes nothing where all is as it should be.
	Between(ctx context.Context, b lb.Between) (changed bool, err error)
}
