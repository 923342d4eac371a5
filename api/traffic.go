package api

import (
	"context"
	"net/http"

	"shoal/traffic"
)

// Traffic is what the hosts of the cluster have counted of who talks to whom.
// [traffic.Meter] makes rates of two of them.
type Traffic struct {
	Hosts   map[string]traffic.Count `json:"hosts"`             // by name
	Unknown map[string]string        `json:"unknown,omitempty"` // live hosts that did not tell, and why
}

// Traffic is what the hosts of the cluster have counted so far. Each looks anew at
// most every two seconds, and has counted nothing before it was asked first.
func (c *Client) Traffic(ctx context.Context) (t Traffic, err error) {
	return t, c.call(ctx, http.MethodGet, "/v1/traffic", &t)
}
