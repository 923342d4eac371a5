package catalog

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"reflect"
	"testing"
	"time"

	"shoal/model"
)

// filled is a value in which nothing is zero: each slice has one element.
func filled[T any](t *testing.T) T {
	t.Helper()
	var v T
	fill(t, reflect.ValueOf(&v).Elem(), reflect.TypeFor[T]().Name())
	return v
}

func fill(t *testing.T, v reflect.Value, path string) {
	t.Helper()
	switch x := v.Addr().Interface().(type) {
	case *netip.Addr:
		*x = netip.MustParseAddr("192.0.2.9")
	case *netip.Prefix:
		*x = netip.MustParsePrefix("192.0.2.0/24")
	case *time.Time:
		*x = epoch
	case *model.MAC:
		*x = model.MAC{2, 9}
	case *model.Protocol:
		*x = model.SCTP
	default:
		switch v.Kind() {
		case reflect.String:
			v.SetString("x")
		case reflect.Bool:
			v.SetBool(true)
		case reflect.Int, reflect.Int64:
			v.SetInt(9)
		case reflect.Uint16:
			v.SetUint(9)
		case reflect.Slice:
			v.Set(reflect.MakeSlice(v.Type(), 1, 1))
			fill(t, v.Index(0), path+"[0]")
		case reflect.Pointer:
			v.Set(reflect.New(v.Type().Elem()))
			fill(t, v.Elem(), path)
		case reflect.Struct:
			for i := range v.NumField() {
				if f := v.Type().Field(i); f.IsExported() {
					fill(t, v.Field(i), path+"."+f.Name)
				}
			}
		default:
			t.Fatalf("no value for %s, a %s", path, v.Type())
		}
	}
}

// fields calls f with each part of a filled value, the smallest first.
func fields(v reflect.Value, path string, f func(path string, v reflect.Value)) {
	if v.Kind() == reflect.Pointer {
		fields(v.Elem(), path, f)
		return
	}
	defer f(path, v)
	switch v.Interface().(type) {
	case netip.Addr, netip.Prefix, time.Time, model.MAC:
		return
	}
	switch v.Kind() {
	case reflect.Slice:
		fields(v.Index(0), path+"[0]", f)
	case reflect.Struct:
		for i := range v.NumField() {
			if field := v.Type().Field(i); field.IsExported() {
				fields(v.Field(i), path+"."+field.Name, f)
			}
		}
	}
}

// seesEveryField takes each field of a value away in turn: one that is added to
// a type and not to its comparison would never reach a Snapshot.
func seesEveryField[T any](t *testing.T, equal func(a, b *T) bool) {
	t.Helper()
	a := filled[T](t)
	var paths []string
	fields(reflect.ValueOf(&a).Elem(), reflect.TypeFor[T]().Name(), func(path string, _ reflect.Value) { paths = append(paths, path) })
	for _, path := range paths {
		b := filled[T](t)
		if !equal(&a, &b) {
			t.Fatalf("%s is not equal to itself", reflect.TypeFor[T]())
		}
		fields(reflect.ValueOf(&b).Elem(), reflect.TypeFor[T]().Name(), func(p string, v reflect.Value) {
			if p == path {
				v.SetZero()
			}
		})
		if equal(&a, &b) {
			t.Errorf("another %s goes unnoticed", path)
		}
	}
	if len(paths) < 2 {
		t.Errorf("only %q", paths)
	}
}

func TestEqualSeesEveryField(t *testing.T) {
	seesEveryField(t, (*model.Container).Equal)
	seesEveryField(t, (*model.Task).Equal)
	seesEveryField(t, (*model.Spec).Equal)
	seesEveryField(t, (*model.Service).Equal)
	seesEveryField(t, func(a, b *model.Network) bool { return model.EqualNetworks([]model.Network{*a}, []model.Network{*b}) })
	// As records and build compare them.
	seesEveryField(t, func(a, b *model.Node) bool { return *a == *b })
	seesEveryField(t, func(a, b *model.PortClaim) bool { return *a == *b })
}

// TestRecordsKeepEveryField writes and reads records in which each field is set.
func TestRecordsKeepEveryField(t *testing.T) {
	c, n, rec, claim := filled[model.Container](t), filled[model.Node](t), filled[ServiceRecord](t), filled[model.PortClaim](t)
	claim.Port, claim.Protocol = 53, model.UDP
	n.Problem, n.ProblemCode = "", "" // are this host's finding
	c.Tasks[0].Seen = time.Time{}
	for key, test := range map[string]struct {
		value any // to be written
		read  func(entry) any
		want  any
	}{
		taskKey("x", "x"): {c, func(e entry) any { return *e.container }, c},
		nodeKey("x"):      {n, func(e entry) any { return *e.node }, n},
		serviceKey(model.ServiceID{Stack: "x", Name: "x"}): {rec, func(e entry) any { return *e.service }, rec},
		publishKey(port{model.UDP, 53}):                    {claim.Service, func(e entry) any { return *e.published }, claim},
		taskKey("x", "x") + "/no such thing":               {},
	} {
		e, err := decode(key, []byte(encode(test.value)))
		if test.read == nil {
			if err == nil {
				t.Errorf("%s was read", key)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", key, err)
		} else if got := test.read(e); !reflect.DeepEqual(got, test.want) {
			t.Errorf("%s was %+v, is %+v", key, test.want, got)
		}
	}

	// On disk there are networks besides.
	net := filled[model.Network](t)
	var got cacheLine
	if err := json.Unmarshal([]byte(encode(cacheLine{Network: &net})), &got); err != nil || !reflect.DeepEqual(*got.Network, net) {
		t.Errorf("network was %+v, is %+v, %v", net, got.Network, err)
	}
}

func TestStatesAndChoicesOfTasksReachOtherHosts(t *testing.T) {
	t.Parallel()
	a := open(t, "a", shortDir(t))
	b := open(t, "b", shortDir(t), beside(t, a))
	b.SetLocal(local())
	for i, state := range []model.State{model.Starting, model.Running, model.Unhealthy, model.Paused, model.Draining} {
		c := ctr("a", "1", "10.0.0.1", "web")
		c.Tasks[0].State = state
		c.Tasks[0].Spec.PublishLocal, c.Tasks[0].Spec.PreferLocal = i%2 == 0, i%2 == 1
		a.SetLocal(local(c))
		eventually(t, fmt.Sprintf("%s is seen", state), func() bool {
			s := b.Snapshot()
			if s == nil {
				return false
			}
			svc, ok := s.Service(model.ServiceID{Stack: model.DefaultStack, Name: "web"})
			if !ok {
				return false
			}
			got := svc.Tasks[0]
			got.Seen = time.Time{} // is b's finding
			return got.Equal(&c.Tasks[0])
		})
	}
}
