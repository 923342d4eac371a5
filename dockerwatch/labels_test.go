package dockerwatch

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"shoal/model"
)

var testLimits = limits{
	pool:     netip.MustParsePrefix("10.96.0.0/16"),
	reserved: []netip.Addr{netip.MustParseAddr("10.96.0.10")},
}

var compare = []cmp.Option{
	cmp.AllowUnexported(serviceLabels{}),
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmpopts.EquateEmpty(),
	cmpopts.IgnoreFields(serviceLabels{}, "alone"),
}

// labelsOf reads "a=b c=d" as labels, with "shoal." in front of each that does
// not begin with "com.".
func labelsOf(s string) map[string]string {
	m := map[string]string{}
	for _, f := range strings.Fields(s) {
		k, v, _ := strings.Cut(f, "=")
		if !strings.HasPrefix(k, "com.") {
			k = labelPrefix + k
		}
		m[k] = strings.ReplaceAll(v, "␣", " ")
	}
	return m
}

// web is the task of default/web with every default, changed by f.
func web(f func(*serviceLabels)) []serviceLabels {
	s := serviceLabels{
		id:     model.ServiceID{Stack: "default", Name: "web"},
		spec:   model.Spec{Mode: model.ModeVIP, Scheduler: "rr"},
		weight: 1,
		drain:  10 * time.Second,
		health: true,
		ready:  true,
	}
	if f != nil {
		f(&s)
	}
	return []serviceLabels{s}
}

func ports(ports ...model.Port) []serviceLabels {
	return web(func(s *serviceLabels) { s.spec.Ports = ports })
}

func publish(ports ...model.PublishedPort) []serviceLabels {
	return web(func(s *serviceLabels) { s.spec.Publish = ports })
}

func TestLabelsSayWhichServicesAContainerIsATaskOf(t *testing.T) {
	named := func(name string, f func(*serviceLabels)) serviceLabels {
		s := web(f)[0]
		s.id.Name = name
		return s
	}
	for labels, want := range map[string][]serviceLabels{
		"":                             nil,
		"stack=shop":                   nil,
		"com.docker.compose.project=%": nil,
		"service=web":                  web(nil),
		"service=web stack=shop":       web(func(s *serviceLabels) { s.id.Stack = "shop" }),
		"service=web com.docker.compose.project=My_Shop-":      web(func(s *serviceLabels) { s.id.Stack = "my-shop" }),
		"service=web stack=a com.docker.compose.project=b":     web(func(s *serviceLabels) { s.id.Stack = "a" }),
		"service=web com.docker.compose.service=something/odd": web(nil),

		"service=web ports=80":        ports(model.Port{Port: 80, Target: 80, Protocol: model.TCP}),
		"service=web port=80":         ports(model.Port{Port: 80, Target: 80, Protocol: model.TCP}),
		"service=web ports=80:8080":   ports(model.Port{Port: 80, Target: 8080, Protocol: model.TCP}),
		"service=web ports=h2:80":     ports(model.Port{Name: "h2", Port: 80, Target: 80, Protocol: model.TCP}),
		"service=web ports=5060/SCTP": ports(model.Port{Port: 5060, Target: 5060, Protocol: model.SCTP}),
		"service=web ports=1,␣65535␣": ports(model.Port{Port: 1, Target: 1, Protocol: model.TCP}, model.Port{Port: 65535, Target: 65535, Protocol: model.TCP}),
		"service=web ports=80,80/udp": ports(model.Port{Port: 80, Target: 80, Protocol: model.TCP}, model.Port{Port: 80, Target: 80, Protocol: model.UDP}),
		"service=web ports=80:1,81:1": ports(model.Port{Port: 80, Target: 1, Protocol: model.TCP}, model.Port{Port: 81, Target: 1, Protocol: model.TCP}),
		"service=web ports=1a-b:80":   ports(model.Port{Name: "1a-b", Port: 80, Target: 80, Protocol: model.TCP}),
		"service=web ports=d:1,d:1/udp": ports(model.Port{Name: "d", Port: 1, Target: 1, Protocol: model.TCP},
			model.Port{Name: "d", Port: 1, Target: 1, Protocol: model.UDP}),
		"service=web ports=http:80:8080,metrics:9090,dns:53:5353/udp": ports(
			model.Port{Name: "http", Port: 80, Target: 8080, Protocol: model.TCP},
			model.Port{Name: "metrics", Port: 9090, Target: 9090, Protocol: model.TCP},
			model.Port{Name: "dns", Port: 53, Target: 5353, Protocol: model.UDP}),

		"service=web publish=80":         publish(model.PublishedPort{Published: 80, Target: 80, Protocol: model.TCP}),
		"service=web publish=8080:80":    publish(model.PublishedPort{Published: 8080, Target: 80, Protocol: model.TCP}),
		"service=web publish=0.0.0.0:80": publish(model.PublishedPort{Published: 80, Target: 80, Protocol: model.TCP}),
		"service=web publish=[::]:80":    publish(model.PublishedPort{Published: 80, Target: 80, Protocol: model.TCP}),
		"service=web publish=[::1]:81:80/udp": publish(
			model.PublishedPort{IP: netip.MustParseAddr("::1"), Published: 81, Target: 80, Protocol: model.UDP}),
		"service=web publish=[::ffff:127.0.0.1]:80": publish(
			model.PublishedPort{IP: netip.MustParseAddr("127.0.0.1"), Published: 80, Target: 80, Protocol: model.TCP}),
		"service=web publish=127.0.0.1:9000:9000,53:53/udp,127.0.0.2:9000": publish(
			model.PublishedPort{IP: netip.MustParseAddr("127.0.0.1"), Published: 9000, Target: 9000, Protocol: model.TCP},
			model.PublishedPort{IP: netip.MustParseAddr("127.0.0.2"), Published: 9000, Target: 9000, Protocol: model.TCP},
			model.PublishedPort{Published: 53, Target: 53, Protocol: model.UDP}),
		"service=web publish=7000-7001:8000-8001": publish(
			model.PublishedPort{Published: 7000, Target: 8000, Protocol: model.TCP},
			model.PublishedPort{Published: 7001, Target: 8001, Protocol: model.TCP}),
		"service=web publish=65534-65535": publish(
			model.PublishedPort{Published: 65534, Target: 65534, Protocol: model.TCP},
			model.PublishedPort{Published: 65535, Target: 65535, Protocol: model.TCP}),

		"service=web publish=80 publish.local=true": web(func(s *serviceLabels) {
			s.spec.Publish = []model.PublishedPort{{Published: 80, Target: 80, Protocol: model.TCP}}
			s.spec.PublishLocal = true
		}),
		"service=web publish.local=false":   web(nil),
		"service=web locality=any":          web(nil),
		"service=web locality=prefer-local": web(func(s *serviceLabels) { s.spec.PreferLocal = true }),
		"service=web services.admin.publish.local=true services.admin.locality=prefer-local": {
			named("admin", func(s *serviceLabels) { s.spec.PublishLocal, s.spec.PreferLocal = true, true }),
			web(nil)[0],
		},

		"service=web mode=vip":                     web(nil),
		"service=web mode=dnsrr":                   web(func(s *serviceLabels) { s.spec.Mode = model.ModeDNSRR }),
		"service=web scheduler=twos":               web(func(s *serviceLabels) { s.spec.Scheduler = "twos" }),
		"service=web weight=0":                     web(func(s *serviceLabels) { s.weight = 0 }),
		"service=web weight=65535":                 web(func(s *serviceLabels) { s.weight = 65535 }),
		"service=web affinity=client":              web(func(s *serviceLabels) { s.spec.Affinity = 5 * time.Minute }),
		"service=web affinity=client:1":            web(func(s *serviceLabels) { s.spec.Affinity = time.Second }),
		"service=web affinity=client:86400":        web(func(s *serviceLabels) { s.spec.Affinity = 24 * time.Hour }),
		"service=web health=docker":                web(nil),
		"service=web health=none":                  web(func(s *serviceLabels) { s.health = false }),
		"service=web ready=port":                   web(nil),
		"service=web ready=none":                   web(func(s *serviceLabels) { s.ready = false }),
		"services.web.ready=port ready=none":       web(nil),
		"service=web drain=90":                     web(func(s *serviceLabels) { s.drain = 90 * time.Second }),
		"service=web drain=1m30s":                  web(func(s *serviceLabels) { s.drain = 90 * time.Second }),
		"service=web drain=0":                      web(func(s *serviceLabels) { s.drain = 0 }),
		"service=web drain=1h":                     web(func(s *serviceLabels) { s.drain = time.Hour }),
		"service=web network=front":                web(func(s *serviceLabels) { s.network = "front" }),
		"service=web vip=10.96.4.2":                web(func(s *serviceLabels) { s.spec.VIP = netip.MustParseAddr("10.96.4.2") }),
		"service=web vip=::ffff:10.96.4.2":         web(func(s *serviceLabels) { s.spec.VIP = netip.MustParseAddr("10.96.4.2") }),
		"services.web.mode=vip":                    web(nil),
		"services.web.drain=2 drain=1 health=none": web(func(s *serviceLabels) { s.drain, s.health = 2*time.Second, false }),
		"services.web.port=80 services.admin.weight=2 network=n": {
			named("admin", func(s *serviceLabels) { s.weight, s.network = 2, "n" }),
			named("web", func(s *serviceLabels) {
				s.spec.Ports = []model.Port{{Port: 80, Target: 80, Protocol: model.TCP}}
				s.network = "n"
			}),
		},
		"service=web weight=5 drain=1 services.admin.ports=80": {
			named("admin", func(s *serviceLabels) {
				s.spec.Ports = []model.Port{{Port: 80, Target: 80, Protocol: model.TCP}}
				s.drain = time.Second
			}),
			named("web", func(s *serviceLabels) { s.weight, s.drain = 5, time.Second }),
		},
	} {
		got, err := parseLabels(labelsOf(labels), testLimits)
		if err != nil {
			t.Errorf("%s: %v", labels, err)
		} else if diff := cmp.Diff(want, got, compare...); diff != "" {
			t.Errorf("%s (-want +got):\n%s", labels, diff)
		}
	}
}

func TestWrongLabelsAreRefusedWithWhatToDo(t *testing.T) {
	for labels, reason := range map[string]string{
		"service=":             "empty name",
		"service=Web":          "only a-z",
		"service=web.shop":     "only a-z",
		"service=-web":         "hyphen",
		"service=tasks":        "meaning of its own",
		"service=_tcp":         "meaning of its own",
		"service=web stack=":   "shoal.stack: empty",
		"stack=My_Shop":        "shoal.stack: ",
		"services.tasks.port=": "meaning of its own",
		"service=web com.docker.compose.project=_": "set the label shoal.stack",
		"service=" + strings.Repeat("a", 64):       "63 is the most",

		"sevice=web":                      "did you mean shoal.service?",
		"service=web prot=80":             "did you mean shoal.ports?",
		"service=web Scheduler=rr":        "did you mean shoal.scheduler?",
		"service=web sheduler=rr":         "did you mean shoal.scheduler?",
		"services.web.wieght=1":           "did you mean shoal.services.web.weight?",
		"services.web.stack=a":            "there may be ports, publish",
		"services.web=80":                 "write shoal.services.NAME.KEY",
		"services.a.b.ports=80":           "is unknown",
		"services=web":                    "did you mean shoal.service?",
		"service=web colour=red":          "there may be service, stack, ports",
		"ports=80":                        "add the label shoal.service=NAME",
		"drain=1s":                        "add the label shoal.service=NAME",
		"weight=1 services.web.ports=80":  "shoal.weight is about no service",
		"service=web services.web.port=1": "described both by",
		"service=web port=1 ports=1":      "keep one of them",

		"service=web ports=":                             "number is missing",
		"service=web ports=80,":                          "number is missing",
		"service=web ports=0":                            "1 to 65535",
		"service=web ports=70000":                        "1 to 65535",
		"service=web ports=-1":                           "1 to 65535",
		"service=web ports=+80":                          "port",
		"service=web ports=80:0":                         "1 to 65535",
		"service=web ports=80/icmp":                      "use tcp, udp or sctp",
		"service=web ports=80/":                          "use tcp, udp or sctp",
		"service=web ports=1:2:3":                        "write [name:]port",
		"service=web ports=a:1:2:3":                      "write [name:]port",
		"service=web ports=a:b:80":                       "use a number",
		"service=web ports=http":                         "use a number",
		"service=web ports=HTTP:80":                      "only a-z",
		"service=web ports=a--b:80":                      "two hyphens",
		"service=web ports=sixteen-letters-:80":          "hyphen",
		"service=web ports=sixteenletters-x:80":          "15 is the most",
		"service=web ports=7000-7010":                    "use a number",
		"service=web ports=80,80:81":                     "port 80/tcp is there twice",
		"service=web ports=a:80,a:81":                    "name a/tcp is there twice",
		"service=web ports=" + strings.Repeat("1,", 300): "more than 256",

		"service=web publish=":                                 "number is missing",
		"service=web publish=0":                                "1 to 65535",
		"service=web publish=70000:80":                         "1 to 65535",
		"service=web publish=80:70000":                         "1 to 65535",
		"service=web publish=127.0.0.1::80":                    "number is missing",
		"service=web publish=7010-7000":                        "reversed: write 7000-7010",
		"service=web publish=7000-7010:80":                     "equally long",
		"service=web publish=7000-7010:7000-7009":              "equally long",
		"service=web publish=7000-7010,7010:80":                "port 7010/tcp is published twice",
		"service=web publish=80,127.0.0.1:80":                  "port 80/tcp is published twice",
		"service=web publish=[::]:80,0.0.0.0:80":               "port 80/tcp is published twice",
		"service=web publish=example.org:80:80":                "no address of a host",
		"service=web publish=300.0.0.1:80:80":                  "no address of a host",
		"service=web publish=224.0.0.1:80":                     "no address of a host",
		"service=web publish=[fe80::1%eth0]:80":                "no address of a host",
		"service=web publish=[::1:80":                          "IPv6 address as",
		"service=web publish=[::1]80":                          "IPv6 address as",
		"service=web publish=1:2:3":                            "write [ip:]published",
		"service=web publish=1-1001":                           "more than 1000",
		"service=web publish=1-600,601-1200":                   "more than 1000",
		"service=web publish=1/quic":                           "use tcp, udp or sctp",
		"service=web publish=1 services.a.publish=1":           "published twice",
		"services.a.publish=1-600 services.b.publish=601-1200": "more than 1000",

		"service=web publish.local=yes":                        "use true or false",
		"service=web publish.local=":                           "use true or false",
		"service=web publish.locla=true":                       "did you mean shoal.publish.local?",
		"services.web.publish.remote=true":                     "is unknown",
		"publish.local=true":                                   "add the label shoal.service=NAME",
		"publish.local=true services.web.publish=80":           "shoal.publish.local is about no service",
		"service=web locality=local":                           "use any or prefer-local",
		"service=web localty=any":                              "did you mean shoal.locality?",
		"service=web mode=swarm":                               "use vip or dnsrr",
		"service=web scheduler=random":                         "use one of rr, wrr",
		"service=web scheduler=RR":                             "use one of rr, wrr",
		"service=web weight=-1":                                "0 to 65535",
		"service=web weight=65536":                             "0 to 65535",
		"service=web weight=":                                  "0 to 65535",
		"service=web affinity=cookie":                          "use client",
		"service=web affinity=client:":                         "1 to 86400 seconds",
		"service=web affinity=client:0":                        "1 to 86400 seconds",
		"service=web affinity=client:86401":                    "1 to 86400 seconds",
		"service=web affinity=client:1h":                       "1 to 86400 seconds",
		"service=web health=on":                                "use docker or none",
		"service=web ready=http":                               "label shoal.ready=\"http\": use port or none",
		"service=web ready=":                                   "use port or none",
		"service=web redy=port":                                "did you mean shoal.ready?",
		"service=web drain=-1s":                                "0 to 1h",
		"service=web drain=3601":                               "0 to 1h",
		"service=web drain=61m":                                "0 to 1h",
		"service=web drain=soon":                               "0 to 1h",
		"service=web network=":                                 "name of one of the container's networks",
		"service=web vip=web":                                  "no IP address",
		"service=web vip=10.97.0.1":                            "use an address of 10.96.0.0/16",
		"service=web vip=fd00::1":                              "use an address of 10.96.0.0/16",
		"service=web vip=10.96.0.10":                           "reserved",
		"service=web vip=10.96.0.2 mode=dnsrr":                 "in mode dnsrr it has none",
		"service=web ports=80:81 mode=dnsrr":                   "clients speak to the task itself",
		"services.a.vip=10.96.0.2 services.b.vip=10.96.0.2":    "same VIP 10.96.0.2",
		"service=web publish=" + strings.Repeat("1", 16<<10+1): "16384 is the most",
	} {
		got, err := parseLabels(labelsOf(labels), testLimits)
		switch {
		case err == nil:
			t.Errorf("%.80s: taken as %+v", labels, got)
		case !strings.Contains(err.Error(), reason):
			t.Errorf("%.80s: %v\nwant: %s", labels, err, reason)
		}
	}
}

func TestOneContainerServesNoMoreThan32Services(t *testing.T) {
	labels := map[string]string{}
	for i := range maxServices {
		labels[fmt.Sprintf("shoal.services.s%d.weight", i)] = "1"
	}
	if got, err := parseLabels(labels, testLimits); err != nil || len(got) != maxServices {
		t.Fatalf("%d services: %v", len(got), err)
	}
	labels["shoal.services.more.weight"] = "1"
	if _, err := parseLabels(labels, testLimits); err == nil {
		t.Fatal("one more was taken")
	}
}

func TestAnUnusableProjectLeavesAnUnlabelledContainerInTheDefaultStack(t *testing.T) {
	if got, _ := stackOf(map[string]string{projectLabel: "_"}); got != model.DefaultStack {
		t.Errorf("stack %q", got)
	}
}

// format writes services as labels.
func format(services []serviceLabels) map[string]string {
	labels := map[string]string{}
	for _, s := range services {
		labels["shoal.stack"] = s.id.Stack
		set := func(key, value string) { labels["shoal.services."+s.id.Name+"."+key] = value }
		set("mode", string(s.spec.Mode))
		set("scheduler", s.spec.Scheduler)
		set("weight", fmt.Sprint(s.weight))
		set("drain", s.drain.String())
		set("health", map[bool]string{true: "docker", false: "none"}[s.health])
		set("ready", map[bool]string{true: "port", false: "none"}[s.ready])
		set("publish.local", fmt.Sprint(s.spec.PublishLocal))
		set("locality", map[bool]string{true: "prefer-local", false: "any"}[s.spec.PreferLocal])
		if s.network != "" {
			set("network", s.network)
		}
		if s.spec.Affinity != 0 {
			set("affinity", fmt.Sprintf("client:%d", s.spec.Affinity/time.Second))
		}
		if s.spec.VIP.IsValid() {
			set("vip", s.spec.VIP.String())
		}
		var list []string
		for _, p := range s.spec.Ports {
			list = append(list, strings.TrimPrefix(fmt.Sprintf("%s:%d:%d/%s", p.Name, p.Port, p.Target, p.Protocol), ":"))
		}
		if list != nil {
			set("ports", strings.Join(list, ","))
		}
		list = nil
		for _, p := range s.spec.Publish {
			item := fmt.Sprintf("%d:%d/%s", p.Published, p.Target, p.Protocol)
			if p.IP.IsValid() {
				item = netip.AddrPortFrom(p.IP, p.Published).String() + fmt.Sprintf(":%d/%s", p.Target, p.Protocol)
			}
			list = append(list, item)
		}
		if list != nil {
			set("publish", strings.Join(list, ","))
		}
	}
	return labels
}

// FuzzLabels reads labels from lines of key=value. What is taken is within
// bounds and, written as labels again, means the same.
func FuzzLabels(f *testing.F) {
	for _, seed := range []string{
		"shoal.service=web\nshoal.ports=http:80:8080,53/udp\nshoal.publish=7000-7010:8000-8010,[::1]:80",
		"shoal.services.a.vip=10.96.1.1\nshoal.services.b.affinity=client:5\nshoal.drain=1m\nshoal.stack=x",
		"shoal.service=web\ncom.docker.compose.project=A_b-\nshoal.weight=3\nshoal.mode=dnsrr\nshoal.network=n",
		"shoal.service=web\nshoal.scheduler=mh\nshoal.health=none\nshoal.port=80\nshoal.vip=10.96.0.1",
		"shoal.service=web\nshoal.publish=80\nshoal.publish.local=true\nshoal.services.a.locality=prefer-local\nshoal.services.a.publish.local=false",
		"shoal.sevice=web", "shoal=", "shoal.services..=",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		labels := map[string]string{}
		for line := range strings.Lines(text) {
			k, v, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
			labels[k] = v
		}
		services, err := parseLabels(labels, testLimits)
		if err != nil {
			if len(err.Error()) > 1000 {
				t.Fatalf("error of %d characters", len(err.Error()))
			}
			return
		}
		published := 0
		for _, s := range services {
			published += len(s.spec.Publish)
			switch {
			case model.CheckLabel(s.id.Name) != nil || model.CheckLabel(s.id.Stack) != nil,
				s.weight < 0 || s.weight > 65535,
				s.drain < 0 || s.drain > time.Hour,
				s.spec.Affinity < 0 || s.spec.Affinity > 24*time.Hour,
				!slices.Contains(schedulers, s.spec.Scheduler),
				s.spec.VIP.IsValid() && !testLimits.pool.Contains(s.spec.VIP),
				len(s.spec.Ports) > maxPorts || published > maxPublish:
				t.Fatalf("out of bounds: %+v", s)
			}
			for _, p := range s.spec.Ports {
				if p.Port == 0 || p.Target == 0 {
					t.Fatalf("port 0: %+v", p)
				}
			}
			for _, p := range s.spec.Publish {
				if p.Published == 0 || p.Target == 0 {
					t.Fatalf("port 0: %+v", p)
				}
			}
		}
		if size := formatSize(services); size > maxValue {
			return // spelled out, its ranges make too long a value
		}
		again, err := parseLabels(format(services), testLimits)
		if err != nil {
			t.Fatalf("%v: refused as %v", err, format(services))
		}
		if diff := cmp.Diff(services, again, compare...); diff != "" {
			t.Fatalf("read again (-once +twice):\n%s", diff)
		}
	})
}

// formatSize is the length of the longest value format makes.
func formatSize(services []serviceLabels) (size int) {
	for v := range maps.Values(format(services)) {
		size = max(size, len(v))
	}
	return size
}
