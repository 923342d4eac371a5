// Package ui serves a web page of the cluster: what it is, how it is, and who
// talks to whom. It shows; it changes nothing.
//
// In: the views that the API has of the agent ([Source]). Out: over HTTP, one
// JSON [Document], what changes of it while somebody looks, explanations of one
// service, and the page itself, which is in the binary. It has no other truth
// than the API's: a row of the document is what the command line prints, and how the
// cluster is says [model.HealthOf], as it does to shoal status.
//
// While nobody looks it asks nothing. All who look share one stream: the document is
// made once, and compared with the last one, row by row. A client that
// does not read is cut off; it comes back and gets the whole document.
//
// # Who may look
//
// The API's socket is root's only, and the page says most of what that says. A
// loopback address is no such border: every user of the host connects to it, and
// every container on the host's network. So whoever asks for data has to show a
// token ([Token]), which only root can read, or, over TLS, a client's
// certificate. There is no way to switch that off.
//
// The page takes the token out of the fragment of its address, which browsers
// send to nobody, and sends it in a header. A cookie would go to all ports of the
// host: whoever listens on another one could collect it. And a header is sent by no
// other site's page, so no request can be forged.
//
// A page of another site may lead its own name to this host's address (DNS
// rebinding). It would have no token; besides, requests for a name that is not this
// host's are refused. Off loopback the page is served by TLS only.
//
// Names and texts come from containers. The page puts them in as text, never as
// HTML; its Content-Security-Policy forbids scripts and styles that are not
// files of the page, and every other place.
package ui
