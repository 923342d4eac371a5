// Package api is how the command line and the agent of the same host speak:
// HTTP with JSON on a unix socket that only root may open.
//
// It holds both sides, the [Client] and the server's [Handler], and the types of
// their answers. It knows none of the agent's parts: the agent fills a [Backend]
// with a function for each question.
package api
