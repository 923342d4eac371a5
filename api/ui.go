package api

import (
	"context"
	"net/http"
)

// UI is where the page of the cluster is.
type UI struct {
	URL         string `json:"url"`                   // with the token, if there is one: whoever has it may look
	Fingerprint string `json:"fingerprint,omitempty"` // SHA-256 of the certificate, as browsers show it; "": it is served without TLS
	Local       bool   `json:"local"`                 // only this host reaches it
}

// UI is where the page of the cluster is; [ErrNotFound] if the agent serves none.
func (c *Client) UI(ctx context.Context) (u UI, err error) {
	return u, c.call(ctx, http.MethodGet, "/v1/ui", &u)
}
