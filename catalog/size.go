package catalog

import "shoal/model"

// maxRecord is the most that one record may take, in bytes. A record is written
// anew whenever its container's state changes, and etcd keeps the last 10,000
// revisions: of records of this size they are 640 MiB, less than a third of what
// it may hold.
const maxRecord = 64 << 10

// bounded is a container as it may be recorded: one whose labels say too much has
// a problem in place of its tasks, on its own host as well.
func bounded(c model.Container) model.Container {
	if atMost(&c) <= maxRecord {
		return c
	}
	size := len(encode(&c))
	if size <= maxRecord {
		return c
	}
	err := model.RecordTooLarge.Errorf("its labels make a record of %d bytes, %d are the most: name fewer ports in them, or give its services containers of their own", size, maxRecord)
	c.Tasks, c.Problem, c.ProblemCode = nil, err.Error(), model.RecordTooLarge
	return c
}

// atMost is a bound of a record's size that is found without writing it, which
// would be too much for every container whenever one of them changes.
func atMost(c *model.Container) int {
	const fixed, port, addr = 1024, 128, 64 // what numbers, times, names of keys and labels of DNS take at most
	text := func(s string) int { return 6 * len(s) }
	n := fixed + text(c.ID) + text(c.Name) + text(c.Node) + text(c.Problem) + addr*len(c.Addrs)
	for _, notice := range c.Notices {
		n += addr + text(notice.Text)
	}
	for i := range c.Tasks {
		t := &c.Tasks[i]
		n += fixed + text(t.Node) + text(t.Container) + text(t.Name)
		if t.Spec != nil { // a record of another version may lack it
			n += port * (len(t.Spec.Ports) + len(t.Spec.Publish))
		}
	}
	return n
}
