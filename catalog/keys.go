package catalog

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"

	"shoal/model"
)

// What is kept in etcd, each value as JSON:
//
//	nodes/NODE            Node
//	agents/NODE           agentRecord
//	tasks/NODE/CONTAINER  Container, with the node's lease
//	services/STACK/NAME   ServiceRecord
//	vips/ADDR             ServiceID of the service that holds it, or held it until not long ago
//	publish/PROTO/PORT    ServiceID of the service that holds it
//	subnets/CIDR          subnetRecord
//	servers/NODE          what package store keeps
//	cluster/…             what others keep, by [Catalog.KV]
//
// A host's tasks are gone from etcd once it was away for the time of its lease,
// a week. The host itself stays, until it is removed: its subnet is its own for ever,
// and one that comes back is no stranger.
//
// Fields a version does not know are passed over, those that come from a
// newer one.
const (
	root         = "/shoal/v1/"
	nodesRoot    = root + "nodes/"
	tasksRoot    = root + "tasks/"
	servicesRoot = root + "services/"
	vipsRoot     = root + "vips/"
	publishRoot  = root + "publish/"
	subnetsRoot  = root + "subnets/"
	kvRoot       = root + "cluster/"
)

func nodeKey(name string) string            { return nodesRoot + name }
func agentKey(node string) string           { return root + "agents/" + node }
func taskKey(node, container string) string { return tasksRoot + node + "/" + container }
func serviceKey(id model.ServiceID) string  { return servicesRoot + id.String() }
func vipKey(a netip.Addr) string            { return vipsRoot + a.String() }
func subnetKey(p netip.Prefix) string       { return subnetsRoot + p.String() }
func publishKey(p port) string              { return publishRoot + p.String() }

// needsRecord tells whether a container is worth a record: whether another host
// would treat its addresses or its tasks otherwise than without one.
func needsRecord(c *model.Container) bool {
	return len(c.Tasks) > 0 || c.Problem != "" || c.Stack != model.DefaultStack
}

// entry is a record with what its key says. One of its fields is set.
type entry struct {
	node      *model.Node
	container *model.Container
	id        model.ServiceID // of service
	service   *ServiceRecord
	published *model.PortClaim
}

// decode reads a record. Of keys that are none of ours, and of those that only
// transactions read, it makes an empty entry. A record which contradicts its
// key is an error as much as one that is no JSON: it must not act under
// another's name.
func decode(key string, value []byte) (e entry, err error) {
	rest, ok := strings.CutPrefix(key, root)
	if !ok {
		return e, nil
	}
	kind, rest, _ := strings.Cut(rest, "/")
	switch kind {
	case "nodes":
		n := model.Node{Alive: true}
		if err := json.Unmarshal(value, &n); err != nil {
			return e, err
		}
		if n.Name != rest {
			return e, fmt.Errorf("it names node %q", n.Name)
		}
		return entry{node: &n}, nil
	case "tasks":
		c := new(model.Container)
		if err := json.Unmarshal(value, c); err != nil {
			return e, err
		}
		return entry{container: c}, checkContainer(c, rest)
	case "services":
		id, err := model.ParseServiceID(rest)
		if err != nil {
			return e, err
		}
		rec := new(ServiceRecord)
		if err := json.Unmarshal(value, rec); err != nil {
			return e, err
		}
		return entry{id: id, service: rec}, nil
	case "publish":
		claim, err := decodeClaim(rest, value)
		return entry{published: claim}, err
	}
	return e, nil
}

// decodeClaim reads who holds a port, given as PROTO/PORT.
func decodeClaim(rest string, value []byte) (*model.PortClaim, error) {
	p, err := parsePort(rest)
	if err != nil {
		return nil, err
	}
	claim := &model.PortClaim{Protocol: p.protocol, Port: p.number}
	if err := json.Unmarshal(value, &claim.Service); err != nil {
		return nil, err
	}
	_, err = model.ParseServiceID(claim.Service.String())
	return claim, err
}

// checkContainer reports what of a record of another host would do harm here.
func checkContainer(c *model.Container, nodeAndID string) error {
	if c.Node+"/"+c.ID != nodeAndID {
		return fmt.Errorf("it names container %q of node %q", c.ID, c.Node)
	}
	for i := range c.Tasks {
		t := &c.Tasks[i]
		if t.Node != c.Node || t.Container != c.ID {
			return fmt.Errorf("its task of %s names container %q of node %q", t.Service, t.Container, t.Node)
		}
		if !t.Addr.IsValid() {
			return fmt.Errorf("its task of %s has no address", t.Service)
		}
		for _, label := range []string{t.Service.Stack, t.Service.Name} {
			if err := model.CheckLabel(label); err != nil {
				return fmt.Errorf("its task of %s: %w", t.Service, err)
			}
		}
	}
	return nil
}

// encode writes a record. None of the types can fail to be written.
func encode(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return string(b)
}
