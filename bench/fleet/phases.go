package fleet

import (
	"time"
)

// phase does one, and adds its rows.
func (d *driver) phase(name string) error {
	before, err := d.now()
	if err != nil {
		return err
	}
	d.late.take()
	o := outcome{phase: name}
	f := map[string]func(*outcome) error{
		phaseCold: d.cold, phaseRest: d.rest, phaseChurn: d.churn,
		phaseServer: d.loseServer, phasePartition: d.partition, phaseDeath: d.deaths,
	}[name]
	if err := f(&o); err != nil {
		return err
	}
	after, err := d.now()
	if err != nil {
		return err
	}
	u := after.sub(before)
	for _, r := range cost(name, u, d.o.Hosts, processors()) {
		d.add(r.phase, r.what, "%s", r.figure)
	}
	d.add(name, "this machine runs a process that waited for a time later than that", "%s", d.late.take())
	o.busy, o.most = u.busy(processors()), u.first()
	d.outcomes = append(d.outcomes, o)
	return nil
}

// inParts runs what each part does in a phase, at once.
func (d *driver) inParts(phase string, catalog, liveness func() error) error {
	done := make(chan error, 2)
	n := 0
	for part, f := range map[string]func() error{partCatalog: catalog, partLiveness: liveness} {
		if d.plan.with(part, phase) {
			n++
			go func() { done <- f() }()
		}
	}
	var err error
	for range n {
		if e := <-done; e != nil {
			err = e
		}
	}
	return err
}

// cold starts all hosts at once, and waits until each knows all.
func (d *driver) cold(o *outcome) error {
	start := time.Now()
	var catalogs, lives settled
	var stats []catalogStats
	err := d.inParts(phaseCold, func() error {
		err := all(d.catalogs, "start", func(i int) any {
			return catalogArgs{d.dir, share(d.o.Hosts, d.o.Workers, i), d.o.Hosts, d.o.Tasks, d.o.Servers, observers}
		}, nil)
		if err == nil {
			catalogs, err = d.awaitCatalogs(start, d.o.Limit)
		}
		stats = make([]catalogStats, len(d.catalogs))
		if err == nil {
			err = all(d.catalogs, "stats", func(int) any { return nil }, func(i int) any { return &stats[i] })
		}
		return err
	}, func() error {
		err := all(d.lives, "start", func(i int) any {
			return livenessArgs{d.dir, share(d.o.Hosts, d.o.Workers, i), d.o.Hosts, d.o.Askers}
		}, nil)
		if err == nil {
			lives, err = d.settled(d.lives, "await", awaitArgs{Since: start, Limit: d.o.Limit})
		}
		return err
	})
	if err != nil {
		return err
	}
	if d.plan.has(partCatalog) {
		d.add(phaseCold, "until a host knows all tasks", "%s; never: %d", catalogs.Took, catalogs.Open)
		var claims, cache int64
		for _, s := range stats {
			claims, cache = claims+s.Claims, s.CacheSize
		}
		d.add(phaseCold, "claims of a subnet that were refused and tried again", "%d", claims)
		d.add(phaseCold, "a host's state on its disk", "%s", amount(float64(cache), "B"))
	}
	if d.plan.has(partLiveness) {
		d.add(phaseCold, "until a host has heard all others", "%s; never: %d", lives.Took, lives.Open)
		// A verdict of death in a start may have been right: the other had not started.
		if err := d.checkLives(phaseCold, verdictArgs{Since: time.Now().Add(time.Hour)}, o); err != nil {
			return err
		}
	}
	o.open = catalogs.Open + lives.Open
	return nil
}

// awaitCatalogs waits until each host has all containers that there are to be.
func (d *driver) awaitCatalogs(since time.Time, limit time.Duration) (s settled, err error) {
	tallies := make([]tally, len(d.catalogs))
	if err := all(d.catalogs, "tally", func(int) any { return nil }, func(i int) any { return &tallies[i] }); err != nil {
		return s, err
	}
	var want tally
	for _, t := range tallies {
		want.join(t)
	}
	return d.settled(d.catalogs, "await", awaitArgs{want, since, limit})
}

// count has the workers of liveness count something, and adds it up.
func (d *driver) count(what string, args any) (sum int, err error) {
	n := make([]int, len(d.lives))
	err = all(d.lives, what, func(int) any { return args }, func(i int) any { return &n[i] })
	for _, one := range n {
		sum += one
	}
	return sum, err
}

// checkLives counts the verdicts of death on hosts that live, and the hosts that gossip does
// not have, and adds rows.
func (d *driver) checkLives(phase string, args verdictArgs, o *outcome) (err error) {
	if o.wrong, err = d.count("wrong", args); err != nil {
		return err
	}
	d.add(phase, "verdicts of death on hosts that live", "%d", o.wrong)
	unmet, err := d.count("unmet", struct{}{})
	d.add(phase, "of the askers' hosts, those that their gossip does not have at the end", "%d of %d", unmet, d.o.Askers*(d.o.Hosts-1))
	return err
}

// rest does nothing for a while.
func (d *driver) rest(o *outcome) error {
	start := time.Now()
	d.pause(time.Duration(d.o.Seconds) * time.Second)
	if d.plan.has(partLiveness) {
		return d.checkLives(phaseRest, verdictArgs{Since: start}, o)
	}
	return nil
}

func (d *driver) pause(t time.Duration) {
	select {
	case <-d.ctx.Done():
	case <-time.After(t):
	}
}

// replaceTasks replaces tasks for a while, and waits until all hosts know.
func (d *driver) replaceTasks(phase string, rate float64, t time.Duration, o *outcome) error {
	none := func(int) any { return nil }
	if err := all(d.catalogs, "watch", none, nil); err != nil {
		return err
	}
	made := make([]int, len(d.catalogs))
	err := all(d.catalogs, "churn", func(int) any { return churnArgs{rate / float64(len(d.catalogs)), t} }, func(i int) any { return &made[i] })
	if err != nil {
		return err
	}
	last := time.Now()
	s, err := d.awaitCatalogs(last, max(settleLimit, d.o.Limit))
	if err != nil {
		return err
	}
	seen := make([]times, len(d.catalogs))
	if err := all(d.catalogs, "seen", none, func(i int) any { return &seen[i] }); err != nil {
		return err
	}
	var took times
	sum := 0
	for i := range seen {
		took = append(took, seen[i]...)
		sum += made[i]
	}
	d.add(phase, "tasks replaced", "%d, %.1f/s", sum, float64(sum)/t.Seconds())
	d.add(phase, "until a change is in another host's Snapshot", "%s", took)
	d.add(phase, "after the last change, until a host knows all tasks", "%s; never: %d", s.Took, s.Open)
	o.open += s.Open
	return nil
}

// churn replaces tasks.
func (d *driver) churn(o *outcome) error {
	return d.replaceTasks(phaseChurn, d.o.Churn, time.Duration(d.o.Seconds)*time.Second, o)
}

// loseServer kills a server of the store, with its etcd, while tasks are replaced, and starts it
// again.
func (d *driver) loseServer(o *outcome) error {
	// Not the first: that is asked how many proposals there are, unless it is the only one.
	s := len(d.servers) - 1
	done := make(chan error, 1)
	d.killServer(s)
	go func() {
		done <- d.replaceTasks(phaseServer, d.o.Churn/5, serverAway+5*time.Second, o)
	}()
	d.pause(serverAway)
	start := time.Now()
	if err := d.startServer(s); err != nil {
		<-done
		return err
	}
	up := time.Since(start)
	if err := <-done; err != nil {
		return err
	}
	d.add(phaseServer, "a server of the store was killed, and started again after", "%s", short(serverAway))
	d.add(phaseServer, "from its start until it served", "%s", short(up))
	return nil
}

// cutOff is the hosts beyond the partition.
func (d *driver) cutOff() (hosts []int) {
	for h := range spread(d.o.Hosts, d.o.Cut) {
		hosts = append(hosts, h)
	}
	return hosts
}

// partition cuts hosts off from the others and from the store, while tasks are replaced on
// both sides, and connects them again.
func (d *driver) partition(o *outcome) error {
	cut := d.cutOff()
	start := time.Now()
	if err := nft(setMembers("cut", d.o.Servers, cut)); err != nil {
		return err
	}
	changed := make(chan error, 1)
	if d.plan.has(partCatalog) {
		go func() {
			changed <- all(d.catalogs, "churn", func(int) any {
				return churnArgs{d.o.Churn / 5 / float64(len(d.catalogs)), cutTime - 2*time.Second}
			}, nil)
		}()
	} else {
		changed <- nil
	}
	d.pause(cutTime)
	if err := <-changed; err != nil {
		return err
	}
	if d.plan.has(partLiveness) {
		dead, err := d.settled(d.lives, "verdicts", verdictArgs{cut, true, false, start})
		if err != nil {
			return err
		}
		d.add(phasePartition, "until a host considers one beyond the cut dead", "%s; never: %d", dead.Took, dead.Open)
		if err := d.checkLives(phasePartition, verdictArgs{Cut: cut, Inside: true, Since: start}, o); err != nil {
			return err
		}
		o.open += dead.Open
		o.found = dead.Took
	}
	healed := time.Now()
	if err := nft(setMembers("cut", d.o.Servers, nil)); err != nil {
		return err
	}
	var catalogs, lives settled
	err := d.inParts(phasePartition, func() (err error) {
		catalogs, err = d.awaitCatalogs(healed, max(settleLimit, d.o.Limit))
		return err
	}, func() (err error) {
		if _, err = d.settled(d.lives, "await", awaitArgs{Since: healed, Limit: verdictLimit}); err != nil {
			return err
		}
		lives, err = d.settled(d.lives, "verdicts", verdictArgs{cut, true, true, healed})
		return err
	})
	if d.plan.has(partCatalog) {
		d.add(phasePartition, "healed, until a host knows all tasks", "%s; never: %d", catalogs.Took, catalogs.Open)
	}
	if d.plan.has(partLiveness) {
		d.add(phasePartition, "healed, until a host considers one beyond the cut alive", "%s; never: %d", lives.Took, lives.Open)
	}
	o.open += catalogs.Open + lives.Open
	return err
}

// deaths has hosts die one after the other: nothing is received from them any more, and
// they receive nothing.
func (d *driver) deaths(o *outcome) error {
	var dead []int
	died := map[int]time.Time{}
	start := time.Now()
	// The hosts that ask all others are left alive: they are the ones that tell.
	asking := spread(d.o.Hosts, d.o.Askers)
	for h := 1; len(dead) < d.o.Deaths && h < d.o.Hosts; h += max(1, d.o.Hosts/(d.o.Deaths+1)) {
		if d.o.Askers < d.o.Hosts && asking[h] {
			h++
		}
		dead = append(dead, h)
		died[h] = time.Now()
		if err := nft(setMembers("dead", d.o.Servers, dead)); err != nil {
			return err
		}
		d.pause(deathPause)
	}
	d.pause(deathLimit - deathPause)
	never := 0
	for _, h := range dead {
		// The hosts that died before say nothing of use of it.
		s, err := d.settled(d.lives, "deaths", deathArgs{h, dead, died[h]})
		if err != nil {
			return err
		}
		o.found = append(o.found, s.Took...)
		never += s.Open
	}
	d.add(phaseDeath, "hosts that died, one after the other", "%d", len(dead))
	d.add(phaseDeath, "until another host considers it dead", "%s; never: %d", o.found, never)
	if err := d.checkLives(phaseDeath, verdictArgs{Cut: dead, Since: start}, o); err != nil {
		return err
	}
	o.open = never
	back := time.Now()
	if err := nft(setMembers("dead", d.o.Servers, nil)); err != nil {
		return err
	}
	if _, err := d.settled(d.lives, "await", awaitArgs{Since: back, Limit: verdictLimit}); err != nil {
		return err
	}
	alive, err := d.settled(d.lives, "verdicts", verdictArgs{dead, false, true, back})
	d.add(phaseDeath, "connected again, until another host considers it alive", "%s; never: %d", alive.Took, alive.Open)
	return err
}
