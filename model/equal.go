package model

import "slices"

// Equal compares field by field, and instants rather than what time.Time holds
// besides. It is called for every container of a host whenever one changes.
func (c *Container) Equal(o *Container) bool {
	return c == o || c.ID == o.ID && c.Name == o.Name && c.Node == o.Node && c.Stack == o.Stack &&
		c.Problem == o.Problem && c.ProblemCode == o.ProblemCode && c.Since.Equal(o.Since) &&
		slices.Equal(c.Addrs, o.Addrs) && slices.Equal(c.Notices, o.Notices) && equalTasks(c.Tasks, o.Tasks)
}

// Equal is as [Container.Equal].
func (t *Task) Equal(o *Task) bool {
	return t.Service == o.Service && t.Node == o.Node && t.Container == o.Container &&
		t.Name == o.Name && t.Addr == o.Addr && t.State == o.State && t.Since.Equal(o.Since) && t.Reason == o.Reason &&
		t.Drain == o.Drain && t.Seen.Equal(o.Seen) && t.Weight == o.Weight && t.Started.Equal(o.Started) &&
		t.Spec.Equal(o.Spec)
}

// Equal is as [Container.Equal].
func (s *Spec) Equal(o *Spec) bool {
	return s == o || s.Mode == o.Mode && s.Scheduler == o.Scheduler && s.Affinity == o.Affinity && s.VIP == o.VIP &&
		s.PublishLocal == o.PublishLocal && s.PreferLocal == o.PreferLocal && slices.Equal(s.Ports, o.Ports) && slices.Equal(s.Publish, o.Publish)
}

// Equal is as [Container.Equal].
func (s *Service) Equal(o *Service) bool {
	return s == o || s.ID == o.ID && s.VIP == o.VIP && s.IdleSince.Equal(o.IdleSince) &&
		s.Spec.Equal(&o.Spec) && slices.EqualFunc(s.Tasks, o.Tasks, (*Task).Equal)
}

func equalTasks(a, b []Task) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if !a[i].Equal(&b[i]) {
			return false
		}
	}
	return true
}

// EqualNetworks compares lists of networks, order included.
func EqualNetworks(a, b []Network) bool {
	return slices.EqualFunc(a, b, func(a, b Network) bool {
		return a.Name == b.Name && a.Bridge == b.Bridge &&
			slices.Equal(a.Subnets, b.Subnets) && slices.Equal(a.Gateway, b.Gateway)
	})
}
