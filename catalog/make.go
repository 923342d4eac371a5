package catalog

import (
	"net/netip"
	"time"

	"shoal/model"
)

// Maker makes Snapshots by hand, one after the other, as a [Catalog] makes them of
// what it is told. It is for tests and measurements of the packages that take
// Snapshots.
type Maker struct {
	self model.Node
	r    *records
	last *model.Snapshot
}

// NewMaker makes one for the host self.
func NewMaker(self model.Node) *Maker {
	m := &Maker{self: self, r: newRecords(self.Name), last: new(model.Snapshot)}
	m.PutNode(self)
	return m
}

// PutNode, PutContainer, DeleteContainer, PutVIP, PutPort, SetNetworks and SetAlive change
// what the next Snapshot is made of.
func (m *Maker) PutNode(n model.Node) { m.r.putNode(n) }

// PutContainer adds a container of any host, or changes it.
func (m *Maker) PutContainer(c model.Container) { m.r.putContainer(c) }

// ReadContainer is PutContainer, by the container's record in etcd (JSON).
func (m *Maker) ReadContainer(node, id string, record []byte) error {
	e, err := decode(taskKey(node, id), record)
	if err == nil {
		m.r.putContainer(*e.container)
	}
	return err
}

// DeleteContainer takes one out.
func (m *Maker) DeleteContainer(node, id string) { m.r.deleteContainer(node, id) }

// PutVIP gives a service its VIP.
func (m *Maker) PutVIP(id model.ServiceID, vip netip.Addr) {
	m.r.putService(id, ServiceRecord{VIP: vip})
}

// PutPort gives a service a published port.
func (m *Maker) PutPort(c model.PortClaim) { m.r.putPublished(c) }

// SetNetworks says which networks this host's containers have.
func (m *Maker) SetNetworks(n []model.Network) { m.r.setNetworks(n) }

// SetAlive is as [Catalog.SetAlive].
func (m *Maker) SetAlive(alive map[string]bool) { m.r.setAlive(alive, time.Now().UTC()) }

// Snapshot is the next one, or the last one if nothing changed.
func (m *Maker) Snapshot() *model.Snapshot {
	m.last = build(m.last, m.self, m.r, m.r.takeChanges())
	return m.last
}

// NewSnapshot makes one Snapshot: of this host, its networks, containers on any
// host, and the VIPs of services.
func NewSnapshot(revision uint64, self model.Node, networks []model.Network, containers []model.Container, vips map[model.ServiceID]netip.Addr) *model.Snapshot {
	m := NewMaker(self)
	m.SetNetworks(networks)
	for _, c := range containers {
		m.PutContainer(c)
	}
	for id, vip := range vips {
		m.PutVIP(id, vip)
	}
	s := m.Snapshot()
	s.Revision = revision
	return s
}
