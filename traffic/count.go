package traffic

import (
	"cmp"
	"time"

	"shoal/model"
)

// Kinds of clients.
const (
	KindService   = "service"   // a container that is a task of the service Name
	KindContainer = "container" // another container, Name
	KindHost      = "host"      // a process of the host Name
	KindOutside   = "outside"   // somebody outside of the cluster, by a published port
	KindOthers    = "others"    // clients beyond the most that a host tells apart
)

// Client is who opens connections. Containers of one service are one client.
type Client struct {
	Kind string `json:"kind"`
	Name string `json:"name,omitempty"` // "stack/name" of a service
}

// Compare orders by kind, then name.
func (c Client) Compare(o Client) int {
	return cmp.Or(cmp.Compare(c.Kind, o.Kind), cmp.Compare(c.Name, o.Name))
}

// Pair is a client and the service it talks to.
type Pair struct {
	From Client          `json:"from"`
	To   model.ServiceID `json:"to"`
}

// Compare orders by client, then service.
func (p Pair) Compare(o Pair) int { return cmp.Or(p.From.Compare(o.From), p.To.Compare(o.To)) }

// Flow is what one host has seen between the two of a pair.
type Flow struct {
	Pair
	Opened uint64 `json:"opened"` // connections since the host began to count
	Open   int    `json:"open"`   // connections that are established now
}

// Service is what the data plane of one host has counted of a service, by its VIP
// and by its published ports. A data plane that counts no bytes leaves them zero.
type Service struct {
	ID       model.ServiceID `json:"id"`
	Opened   uint64          `json:"opened"`   // connections
	BytesIn  uint64          `json:"bytesIn"`  // from clients
	BytesOut uint64          `json:"bytesOut"` // to clients
}

// Count is what one host has counted.
type Count struct {
	Run       string        `json:"run"` // of the agent: numbers of two runs are not to be compared
	At        time.Duration `json:"at"`  // when, since that began
	Services  []Service     `json:"services,omitempty"`
	Flows     []Flow        `json:"flows,omitempty"`
	Unsampled string        `json:"unsampled,omitempty"` // why Flows is not known; "": it is
}
