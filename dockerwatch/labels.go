package dockerwatch

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"shoal/model"
)

const (
	labelPrefix  = "shoal."
	projectLabel = "com.docker.compose.project"
	composeLabel = "com.docker.compose.config-hash" // Compose gives it to containers, never to images

	maxServices = 32       // of one container
	maxValue    = 16 << 10 // octets of a label's value
	maxPorts    = 256      // of one service
	maxPublish  = 1000     // of one container, ranges spelled out

	defaultDrain = 10 * time.Second
	maxDrain     = time.Hour
)

// limits are the bounds of what labels may ask for.
type limits struct {
	pool     netip.Prefix
	reserved []netip.Addr // of the pool, but nobody's VIP
}

// serviceLabels is what a container's labels say of one of its services.
type serviceLabels struct {
	id      model.ServiceID
	spec    model.Spec
	weight  int
	drain   time.Duration
	health  bool   // the container's HEALTHCHECK matters
	ready   bool   // without a HEALTHCHECK that matters, its ports do
	network string // "" if the labels name none

	alone map[model.Port]bool // of spec.Publish, those that are in no range
}

// key is a label, less its prefix.
type key struct {
	name string
	// shared: without "services.NAME." it is about the container, and holds
	// for all of its services.
	shared bool
	set    func(s *serviceLabels, value string, l limits) error
}

// keys are in the order in which they are read; all of them but "service" and
// "stack", which name and do not describe.
var keys = []key{
	{name: "ports", set: func(s *serviceLabels, v string, _ limits) (err error) {
		s.spec.Ports, err = parsePorts(v)
		return err
	}},
	{name: "publish", set: func(s *serviceLabels, v string, _ limits) (err error) {
		s.spec.Publish, err = parsePublish(v)
		s.alone = portsAlone(v)
		return err
	}},
	{name: "publish.local", set: func(s *serviceLabels, v string, _ limits) (err error) {
		s.spec.PublishLocal, err = parsePublishLocal(v)
		return err
	}},
	{name: "mode", set: func(s *serviceLabels, v string, _ limits) (err error) {
		s.spec.Mode, err = parseMode(v)
		return err
	}},
	{name: "scheduler", set: func(s *serviceLabels, v string, _ limits) (err error) {
		s.spec.Scheduler, err = parseScheduler(v)
		return err
	}},
	{name: "weight", set: func(s *serviceLabels, v string, _ limits) (err error) {
		s.weight, err = parseWeight(v)
		return err
	}},
	{name: "affinity", set: func(s *serviceLabels, v string, _ limits) (err error) {
		s.spec.Affinity, err = parseAffinity(v)
		return err
	}},
	{name: "locality", set: func(s *serviceLabels, v string, _ limits) (err error) {
		s.spec.PreferLocal, err = parseLocality(v)
		return err
	}},
	{name: "vip", set: func(s *serviceLabels, v string, l limits) (err error) {
		s.spec.VIP, err = parseVIP(v, l)
		return err
	}},
	{name: "health", shared: true, set: func(s *serviceLabels, v string, _ limits) (err error) {
		s.health, err = parseHealth(v)
		return err
	}},
	{name: "ready", shared: true, set: func(s *serviceLabels, v string, _ limits) (err error) {
		s.ready, err = parseReady(v)
		return err
	}},
	{name: "drain", shared: true, set: func(s *serviceLabels, v string, _ limits) (err error) {
		s.drain, err = parseDrain(v)
		return err
	}},
	{name: "network", shared: true, set: func(s *serviceLabels, v string, _ limits) error {
		if v == "" || len(v) > 255 {
			return errors.New("write the name of one of the container's networks")
		}
		s.network = v
		return nil
	}},
}

// labelSet is a container's shoal labels by where they stand.
type labelSet struct {
	plain map[string]string            // key -> value
	named map[string]map[string]string // service -> key -> value
}

// parseLabels reads the labels of a container: the services it is a task of,
// by name. It has none if no label says so.
func parseLabels(labels map[string]string, l limits) ([]serviceLabels, error) {
	set, err := sortLabels(labels)
	if err != nil {
		return nil, err
	}
	stack, err := stackOf(labels)
	if err != nil && len(set.plain)+len(set.named) > 0 {
		return nil, err
	}
	name, single := set.plain["service"]
	if !single {
		for _, k := range slices.Sorted(maps.Keys(set.plain)) {
			shared := slices.ContainsFunc(keys, func(d key) bool { return d.name == k && d.shared })
			if k != "stack" && !(shared && len(set.named) > 0) {
				return nil, fmt.Errorf("label %s%s is about no service: add the label %sservice=NAME", labelPrefix, k, labelPrefix)
			}
		}
	}

	var services []serviceLabels
	add := func(name, where string, read ...map[string]string) error {
		s, err := parseService(model.ServiceID{Stack: stack, Name: name}, where, l, read...)
		if err == nil {
			services = append(services, s)
		}
		return err
	}
	if single {
		if err := checkServiceName(name); err != nil {
			return nil, fmt.Errorf("label %sservice: %w", labelPrefix, err)
		}
		if _, twice := set.named[name]; twice {
			return nil, fmt.Errorf("service %s is described both by %sservice and by %sservices.%s: keep one of them",
				name, labelPrefix, labelPrefix, name)
		}
		if err := add(name, "", set.plain); err != nil {
			return nil, err
		}
	}
	shared := map[string]string{}
	for _, k := range keys {
		if v, ok := set.plain[k.name]; ok && k.shared {
			shared[k.name] = v
		}
	}
	for _, name := range slices.Sorted(maps.Keys(set.named)) {
		if err := add(name, "services."+name+".", shared, set.named[name]); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(services, func(a, b serviceLabels) int { return a.id.Compare(b.id) })
	return services, checkTogether(services)
}

// sortLabels finds the shoal labels of a container and refuses unknown ones.
func sortLabels(labels map[string]string) (labelSet, error) {
	set := labelSet{plain: map[string]string{}, named: map[string]map[string]string{}}
	for _, label := range slices.Sorted(maps.Keys(labels)) {
		if !isOurs(label) {
			continue
		}
		value := labels[label]
		if len(value) > maxValue {
			return set, fmt.Errorf("label %.80q has a value of %d characters: %d is the most", label, len(value), maxValue)
		}
		rest := strings.TrimPrefix(label, labelPrefix)
		name, word, several := "", rest, false
		into := set.plain
		if after, ok := strings.CutPrefix(rest, "services."); ok {
			if name, word, several = strings.Cut(after, "."); !several {
				return set, fmt.Errorf("label %.80q says nothing of its service: write %sservices.NAME.KEY, as in %sservices.web.ports=80",
					label, labelPrefix, labelPrefix)
			}
			if err := checkServiceName(name); err != nil {
				return set, fmt.Errorf("label %.80q: %w", label, err)
			}
			if set.named[name] == nil {
				if len(set.named) == maxServices {
					return set, fmt.Errorf("labels name more than %d services: one container may serve no more", maxServices)
				}
				set.named[name] = map[string]string{}
			}
			into = set.named[name]
		}
		if word == "port" {
			word = "ports"
		}
		known := knownKeys(several)
		if !slices.Contains(known, word) {
			return set, unknownLabel(label, strings.TrimSuffix(label, word), word, known)
		}
		if _, twice := into[word]; twice {
			return set, fmt.Errorf("label %.80q is there as ports and as port: keep one of them", label)
		}
		into[word] = value
	}
	return set, nil
}

// isOurs tells whether a label is one that is read here, or refused.
func isOurs(label string) bool {
	return label == strings.TrimSuffix(labelPrefix, ".") || strings.HasPrefix(label, labelPrefix)
}

// mayBeOfImage tells whether a container has labels of which it matters whether
// they are its image's.
func mayBeOfImage(labels map[string]string) bool {
	for label := range labels {
		if isOurs(label) || label == projectLabel {
			return true
		}
	}
	return false
}

func knownKeys(several bool) []string {
	var names []string
	if !several {
		names = append(names, "service", "stack")
	}
	for _, k := range keys {
		names = append(names, k.name)
	}
	return names
}

func unknownLabel(label, before, word string, known []string) error {
	if near := nearest(word, known); near != "" {
		return fmt.Errorf("label %.80q is unknown: did you mean %.80s%s?", label, before, near)
	}
	return fmt.Errorf("label %.80q is unknown: after %.80s there may be %s", label, before, strings.Join(known, ", "))
}

// parseService reads the keys of one service. Of several maps that hold a key
// the last one counts.
func parseService(id model.ServiceID, where string, l limits, read ...map[string]string) (serviceLabels, error) {
	s := serviceLabels{
		id:     id,
		spec:   model.Spec{Mode: model.ModeVIP, Scheduler: "rr"},
		weight: 1,
		drain:  defaultDrain,
		health: true,
		ready:  true,
	}
	for _, k := range keys {
		for _, from := range read {
			value, ok := from[k.name]
			if !ok {
				continue
			}
			if err := k.set(&s, value, l); err != nil {
				return s, fmt.Errorf("label %s%s%s=%.80q: %w", labelPrefix, where, k.name, value, err)
			}
		}
	}
	if s.spec.Mode == model.ModeDNSRR {
		if s.spec.VIP.IsValid() {
			return s, fmt.Errorf("service %s asks for the VIP %s, but in mode dnsrr it has none: leave out %svip or the mode",
				id, s.spec.VIP, labelPrefix)
		}
		for _, p := range s.spec.Ports {
			if p.Port != p.Target {
				return s, fmt.Errorf("service %s maps port %d to %d, but in mode dnsrr clients speak to the task itself: write %d alone",
					id, p.Port, p.Target, p.Target)
			}
		}
	}
	return s, nil
}

// checkTogether reports what the services of one container claim twice.
func checkTogether(services []serviceLabels) error {
	vips := map[netip.Addr]model.ServiceID{}
	var all []model.PublishedPort
	for _, s := range services {
		if vip := s.spec.VIP; vip.IsValid() {
			if other, taken := vips[vip]; taken {
				return fmt.Errorf("services %s and %s ask for the same VIP %s: give each its own", other, s.id, vip)
			}
			vips[vip] = s.id
		}
		all = append(all, s.spec.Publish...)
		if err := checkPublished(all); err != nil {
			return fmt.Errorf("label %spublish of service %s: %w", labelPrefix, s.id, err)
		}
	}
	return nil
}

// stackOf tells the stack of a container, which is DefaultStack if its labels
// name none, or none that can be used.
func stackOf(labels map[string]string) (string, error) {
	if stack, ok := labels[labelPrefix+"stack"]; ok {
		if err := model.CheckLabel(stack); err != nil {
			return model.DefaultStack, fmt.Errorf("label %sstack: %w", labelPrefix, err)
		}
		return stack, nil
	}
	project := labels[projectLabel]
	if project == "" {
		return model.DefaultStack, nil
	}
	// Compose allows underscores, and a hyphen at the end; its first version
	// made capitals, too.
	stack := strings.Trim(strings.ReplaceAll(strings.ToLower(project), "_", "-"), "-")
	if err := model.CheckLabel(stack); err != nil {
		return model.DefaultStack, fmt.Errorf("Compose project %.80q as a stack: %w; set the label %sstack", project, err, labelPrefix)
	}
	return stack, nil
}

func checkServiceName(name string) error {
	if name == "tasks" || strings.HasPrefix(name, "_") {
		return fmt.Errorf("name %.20q has a meaning of its own in the DNS zone: choose another", name)
	}
	return model.CheckLabel(name)
}
