package dnsd

import (
	"fmt"

	"golang.org/x/net/publicsuffix"

	"shoal/model"
)

// publicStack tells whether names that end in a stack's name are somebody else's
// outside of the zone, as github.com is where a stack is called com.
//
// What counts is the part of the Public Suffix List that is the root zone's
// (ICANN's); a stack is one label, and the suffixes that companies have entered
// (github.io) end in one of those. Rules with a wildcard ("*.ck") say it of what
// is below, so that is asked. Besides, .local is multicast DNS's (RFC 6762 section
// 3), and .localhost each machine's own (RFC 6761 section 6.3).
func publicStack(stack string) bool {
	if stack == "local" || stack == "localhost" {
		return true
	}
	_, icann := publicsuffix.PublicSuffix("x." + stack)
	return icann
}

// Problems are the services with tasks whose names NAME.STACK are not answered
// outside of the zone.
func (s *Server) Problems(snap *model.Snapshot) (ps []model.Problem) {
	if t := s.table.Load(); t != nil && t.snap == snap && t.public == 0 {
		return nil
	}
	stack, public := "", false
	for i := range snap.Services {
		id := snap.Services[i].ID
		if i == 0 || id.Stack != stack { // they are in order
			stack, public = id.Stack, publicStack(id.Stack)
		}
		if public && len(snap.Services[i].Tasks) > 0 {
			full := id.Name + "." + id.Stack
			ps = append(ps, model.Problem{Code: model.NamePublic, Notice: true, Kind: "service", Object: id.String(), Reason: fmt.Sprintf(
				"names that end in .%s are the Internet's or the machine's own: %s is asked of the host's resolvers; ask for %[2]s.%s, or call the stack otherwise (shoal.stack, or the Compose project's name)",
				id.Stack, full, s.opt.Zone)})
		}
	}
	return ps
}
