package agent

import (
	"encoding/json"
	"reflect"
	"testing"

	"shoal/catalog"
	"shoal/store"
)

func TestTheAPIIsServedWhole(t *testing.T) {
	a := &Agent{member: &membership{}}
	a.inspect = a.inspector()
	for _, filled := range []reflect.Value{reflect.ValueOf(a.backend()), reflect.ValueOf(*a.inspect)} {
		for i := range filled.NumField() {
			if k := filled.Field(i).Kind(); (k == reflect.Func || k == reflect.Interface) && filled.Field(i).IsNil() {
				t.Errorf("%s has no %s", filled.Type(), filled.Type().Field(i).Name)
			}
		}
	}
}

// TestTheStoresStatusIsPassedOnWhole: with every field of the store and of the catalog, by the same names in JSON.
func TestTheStoresStatusIsPassedOnWhole(t *testing.T) {
	var h store.Health
	var s catalog.Status
	fill(reflect.ValueOf(&h).Elem())
	fill(reflect.ValueOf(&s).Elem())
	h.Error = "" // is not passed on beside the catalog's
	want := map[string]any{}
	for _, part := range []any{h, s} {
		decodeInto(t, part, &want)
	}
	got := map[string]any{}
	decodeInto(t, storeStatus(h, s), &got)
	if !reflect.DeepEqual(got, want) {
		t.Errorf("passed on is %v, of %v", got, want)
	}
	if got := storeStatus(store.Health{Error: "away"}, catalog.Status{}); got.LastError != "away" {
		t.Errorf("the store's error is passed on as %q", got.LastError)
	}
}

// fill sets every field.
func fill(v reflect.Value) {
	for i := range v.NumField() {
		switch f := v.Field(i); f.Kind() {
		case reflect.String:
			f.SetString("x")
		case reflect.Bool:
			f.SetBool(true)
		case reflect.Slice:
			f.Set(reflect.ValueOf([]string{"x"}))
		case reflect.Uint64:
			f.SetUint(1)
		default:
			f.SetInt(1)
		}
	}
}

func decodeInto(t *testing.T, from any, to *map[string]any) {
	t.Helper()
	b, err := json.Marshal(from)
	if err == nil {
		err = json.Unmarshal(b, to)
	}
	if err != nil {
		t.Fatal(err)
	}
}
