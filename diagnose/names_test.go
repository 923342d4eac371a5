package diagnose

import (
	"errors"
	"strings"
	"testing"

	"shoal/api"
	"shoal/model"
)

func TestAServiceIsFoundByEveryFormOfItsName(t *testing.T) {
	id := func(stack, name string) model.ServiceID { return model.ServiceID{Stack: stack, Name: name} }
	s := cluster3()
	s.Services = []*model.Service{
		{ID: id("blog", "front")}, {ID: id("default", "db")}, {ID: id("shop", "front")}, {ID: id("shop", "web"), VIP: addr("10.96.0.7")},
	}
	in := &Inspector{Zone: "mesh.internal", Snapshot: func() (*model.Snapshot, error) { return s, nil }}
	for word, want := range map[string]string{
		"web": "shop/web", "web.shop": "shop/web", "shop/web": "shop/web", "web.shop.mesh.internal": "shop/web", "10.96.0.7": "shop/web",
		"db": "default/db", "default/db": "default/db", "shop/front": "shop/front", "front.blog": "blog/front",
		"front": "!several stacks",
		"wep":   "!no service is called \"wep\"", "web.blog": "!no service", "blog/web": "!no service", "Not_A_Label": "!Not_A_Label",
		"a/b/c": "!a/b/c", "": "!say what", "n1:80": "!no service",
	} {
		got, err := in.Service(word)
		part, fails := strings.CutPrefix(want, "!")
		switch {
		case fails && (err == nil || !strings.Contains(err.Error(), part) || errors.Is(err, api.ErrNotFound) != (word != "front")):
			t.Errorf("%q: %s, %v; want an error with %q", word, got, err, part)
		case !fails && (err != nil || got.String() != want):
			t.Errorf("%q: %s, %v; want %s", word, got, err, want)
		}
	}
}
