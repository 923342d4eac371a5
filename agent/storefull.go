package agent

import (
	"context"
	"time"

	"shoal/model"
)

// storeEvery is how often it is looked whether the store takes writes.
const storeEvery = 5 * time.Second

// watchStore says for as long as ctx lasts whether the store is full.
func (a *Agent) watchStore(ctx context.Context) {
	tick := time.NewTicker(storeEvery)
	defer tick.Stop()
	for {
		a.problems.Set("store", storeProblems(a.config.Node, a.catalog.Full(), a.member.external()))
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// storeProblems says that the store is full, and what to do.
func storeProblems(node string, full, external bool) []model.Problem {
	if !full {
		return nil
	}
	why := "etcd holds as much as it may, and takes no more writes; its servers free what they can within seconds: if this stays, remove services and containers that nobody needs, and see the servers' logs"
	if external {
		why = "etcd holds as much as it may, and takes no more writes; it is one of yours: compact and defragment it, then disarm its alarm (etcdctl compact, defrag, alarm disarm)"
	}
	return []model.Problem{{Node: node, Code: model.StoreFull, Kind: "store", Object: "etcd", Reason: why}}
}
