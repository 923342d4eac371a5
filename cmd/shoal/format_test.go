package main

import (
	"bytes"
	"errors"
	"io"
	"net/netip"
	"strings"
	"testing"
	"time"

	"shoal/api"
)

var someServices = []api.ServiceView{
	{ID: "shop/web", VIP: netip.MustParseAddr("10.96.0.20"), Scheduler: "rr", Tasks: 2, InRotation: 1},
	{ID: "default/db", IdleSince: time.Unix(0, 0).UTC()},
}

func TestFormats(t *testing.T) {
	for output, want := range map[string]string{
		"name": "shop/web\ndefault/db\n",
		"go-template={{.id}} {{.inRotation}}/{{.tasks}}{{.vip}}": "shop/web 1/210.96.0.20\ndefault/db 0/0\n",
		"go-template={{upper .id}} {{json .ports}}":              "SHOP/WEB null\nDEFAULT/DB null\n",
		"yaml": `- apiVersion: shoal/v1
  id: shop/web
  mode: ""
  vip: 10.96.0.20
  scheduler: rr
  ports: null
  tasks: 2
  inRotation: 1
- apiVersion: shoal/v1
  id: default/db
  mode: ""
  ports: null
  tasks: 0
  inRotation: 0
  idleSince: "1970-01-01T00:00:00Z"
`,
	} {
		f, err := parseFormat(output)
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		if err := f.encode(&out, someServices); err != nil || out.String() != want {
			t.Errorf("-o %s: %v\n%s\nwant\n%s", output, err, out.String(), want)
		}
	}
}

func TestWrongFormatsAreNamed(t *testing.T) {
	for output, say := range map[string]string{
		"xml":                       "use table, wide, json, yaml, name or go-template=TEMPLATE",
		"go-template={{.id":         "unclosed action",
		"go-template={{.nmae}}":     `there is no field "nmae"; there are apiVersion, id, idleSince,`,
		"go-template={{.id.stack}}": "id",
	} {
		f, err := parseFormat(output)
		if err == nil {
			err = f.encode(io.Discard, someServices)
		}
		if !errors.As(err, new(*usageError)) || !strings.Contains(err.Error(), say) {
			t.Errorf("-o %s: %v, want a usageError that says %s", output, err, say)
		}
	}
	f, _ := parseFormat("name")
	if err := f.encode(io.Discard, struct{}{}); !errors.As(err, new(*usageError)) {
		t.Errorf("the name of what has none: %v", err)
	}
}
