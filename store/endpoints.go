package store

import (
	"maps"
	"net/netip"
	"net/url"
	"slices"
)

// endpoints are those that the client should have.
func (s *Store) endpoints() []string {
	own := ""
	switch {
	case s.place.Role == RoleAlone:
		own = socketEndpoint(s.o.StateDir) // also while it is down: there is no other
	case s.server != nil && !s.server.unlisted:
		own = s.server.endpoint
	}
	all := choose(own, s.others(), s.dead, s.place.Servers, s.found)
	if len(all) == 0 && s.place.Role == RoleServer {
		all = []string{socketEndpoint(s.o.StateDir)} // the only server's own, which is down
	}
	return all
}

// others are the endpoints of servers, by host, but for this host's own.
func (s *Store) others() map[string]string {
	others := map[string]string{}
	for name, e := range s.servers {
		if name != s.o.Node && e.endpoint != "" {
			others[name] = e.endpoint
		}
	}
	return others
}

// choose picks the endpoints for the client: the host's own, those of servers
// that are not dead, and those found. If there are none, dead ones are better
// than nothing. While no server is known, the remembered ones stand in for them.
func choose(own string, servers map[string]string, dead map[string]bool, remembered, found []string) []string {
	var chosen []string
	if own != "" {
		chosen = append(chosen, own)
	}
	chosen = append(chosen, found...)
	if len(servers) == 0 {
		for _, endpoint := range remembered {
			if !slices.Contains(found, endpoint) {
				chosen = append(chosen, endpoint)
			}
		}
		return chosen
	}
	var alive, all []string
	for _, name := range slices.Sorted(maps.Keys(servers)) {
		all = append(all, servers[name])
		if !dead[name] {
			alive = append(alive, servers[name])
		}
	}
	if chosen = append(chosen, alive...); len(chosen) == 0 {
		return all
	}
	return chosen
}

// Found tells the client further endpoints of servers, which another host or etcd named:
// the servers may have moved while this host could not read of it. What etcd
// says of them counts again as soon as it is read there.
func (s *Store) Found(endpoints []string) error {
	for _, endpoint := range endpoints {
		if err := checkEndpoint(endpoint); err != nil {
			return err
		}
	}
	s.mu.Lock()
	s.found = slices.Clone(endpoints)
	s.mu.Unlock()
	return s.setEndpoints(nil)
}

// SetAlive tells which hosts are alive, by name; one that is not among them
// counts as alive. The client leaves an etcd on a dead host at once, without
// waiting for connections to it to fail.
func (s *Store) SetAlive(alive map[string]bool) {
	dead := map[string]bool{}
	for name, up := range alive {
		if !up && name != s.o.Node {
			dead[name] = true
		}
	}
	s.mu.Lock()
	s.dead = dead
	s.mu.Unlock()
	if err := s.setEndpoints(nil); err != nil {
		s.logUnsaved(err)
	}
}

// Answerable tells whether enough of the hosts that serve the store, as this one last knew of them, are up for it to
// take requests.
func (s *Store) Answerable(up func(netip.Addr) bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.place.Role == RoleAlone || s.place.Role == RoleExternal || len(s.found) > 0 {
		return true
	}
	servers, answer := 0, 0
	if s.place.Role == RoleServer {
		servers, answer = 1, 1
	}
	for _, endpoint := range s.place.Servers {
		u, err := url.Parse(endpoint)
		if err != nil {
			continue // checked before
		}
		servers++
		if a, err := netip.ParseAddrPort(u.Host); err != nil || up(a.Addr()) {
			answer++
		}
	}
	return 2*answer > servers || servers == 0
}

// setEndpoints changes what is remembered of this host's place, if change is
// given, and gives the client the endpoints that follow from it.
func (s *Store) setEndpoints(change func(*place)) error {
	s.routeLock.Lock()
	defer s.routeLock.Unlock()
	s.mu.Lock()
	p := s.place
	if p.Role == RoleExternal {
		s.mu.Unlock()
		return nil
	}
	if change != nil {
		change(&p)
	}
	listed := p.Role == RoleServer && s.server != nil && !s.server.unlisted && s.servers != nil // it knows all there are
	if others := slices.Sorted(maps.Values(s.others())); len(others) > 0 || listed {
		p.Servers = others
		s.found = slices.DeleteFunc(s.found, func(endpoint string) bool { return slices.Contains(others, endpoint) })
	}
	save := p.Role != s.place.Role || p.Addr != s.place.Addr || p.Promoting != s.place.Promoting || !slices.Equal(p.Servers, s.place.Servers)
	s.place = p
	if s.servers[s.o.Node].value != s.record() {
		select {
		case s.changed <- struct{}{}:
		default:
		}
	}
	endpoints := s.endpoints()
	var dropped []string // those of dead hosts, unless there are no others
	for name, endpoint := range s.others() {
		if s.dead[name] && !slices.Contains(endpoints, endpoint) {
			dropped = append(dropped, endpoint)
		}
	}
	s.mu.Unlock()

	if !slices.Equal(endpoints, s.client.Endpoints()) {
		s.client.SetEndpoints(endpoints...)
	}
	for _, endpoint := range dropped {
		s.client.Drop(endpoint)
	}
	if save {
		return p.write(s.o.StateDir)
	}
	return nil
}

func (s *Store) logUnsaved(err error) {
	s.log.Warn("the hosts that serve the store could not be written down for a restart", "error", err)
}
