package catalog

import (
	"context"
	"fmt"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"shoal/store/etcd"
)

// Seeded is what [Seed] wrote.
type Seeded struct {
	Saved      time.Time `json:"saved"` // when the cache was written
	Hosts      []string  `json:"hosts"` // this one among them
	Services   int       `json:"services"`
	Containers int       `json:"containers"`
	Ports      int       `json:"ports"`
}

// Seed writes the last state that a host knew of the whole cluster, by the cache in
// its state folder, into an etcd that holds nothing: hosts with their subnets,
// services with their VIPs, published ports, and the containers of all hosts,
// whose own agents take them over when they are back. VIPs that rested are free.
func Seed(ctx context.Context, client *etcd.Client, stateDir, node string) (s Seeded, err error) {
	c, err := readCache(cachePath(stateDir), node)
	if err != nil {
		return s, fmt.Errorf("the state of this host's last run: %w", err)
	}
	var ops []clientv3.Op
	put := func(key string, value any) { ops = append(ops, clientv3.OpPut(key, encode(value))) }
	for _, n := range c.nodes {
		s.Hosts = append(s.Hosts, n.Name)
		put(nodeKey(n.Name), n)
		if n.Number != 0 && n.Subnet.IsValid() {
			put(subnetKey(n.Subnet), subnetRecord{n.Name, n.Number})
		}
	}
	for id, rec := range c.services {
		put(serviceKey(id), rec)
		if rec.VIP.IsValid() {
			put(vipKey(rec.VIP), vipRecord{ServiceID: id})
		}
	}
	for _, p := range c.published {
		put(publishKey(port{p.Protocol, p.Port}), p.Service)
	}
	for _, ctr := range c.containers {
		if needsRecord(&ctr) {
			put(taskKey(ctr.Node, ctr.ID), &ctr)
			s.Containers++
		}
	}
	s.Saved, s.Services, s.Ports = c.header.Saved, len(c.services), len(c.published)
	for _, batch := range batches(ops) {
		if err := writeBatch(ctx, client, batch); err != nil {
			return s, fmt.Errorf("write the state of this host's last run: %w", err)
		}
	}
	return s, nil
}

func writeBatch(ctx context.Context, client *etcd.Client, ops []clientv3.Op) error {
	ctx, cancel := context.WithTimeout(ctx, etcd.RequestTimeout)
	defer cancel()
	_, err := client.Txn(ctx).Then(ops...).Commit()
	return err
}
