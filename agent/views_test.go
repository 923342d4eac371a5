package agent

import (
	"log/slog"
	"reflect"
	"testing"

	"shoal/catalog"
	"shoal/store"
)

func TestTheAPIIsServedWhole(t *testing.T) {
	a := &Agent{member: &membership{}, log: slog.New(slog.DiscardHandler)}
	a.inspect = a.inspector()
	for _, filled := range []reflect.Value{reflect.ValueOf(a.backend()), reflect.ValueOf(*a.inspect)} {
		for i := range filled.NumField() {
			if k := filled.Field(i).Kind(); (k == reflect.Func || k == reflect.Interface) && filled.Field(i).IsNil() {
				t.Errorf("%s has no %s", filled.Type(), filled.Type().Field(i).Name)
			}
		}
	}
}

// TestTheStoresStatusIsPassedOnWhole: with every field, by the same names.
func TestTheStoresStatusIsPassedOnWhole(t *testing.T) {
	var h store.Health
	var c catalog.Status
	parts := []reflect.Value{reflect.ValueOf(&h).Elem(), reflect.ValueOf(&c).Elem()}
	for _, part := range parts {
		for i := range part.NumField() {
			switch f := part.Field(i); f.Kind() {
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
	to := reflect.ValueOf(storeStatus(h, c))
	seen := 0
	for _, part := range parts {
		for i := range part.NumField() {
			from := part.Type().Field(i)
			if from.Name == "Error" { // is in LastError
				continue
			}
			seen++
			if f := to.FieldByName(from.Name); !f.IsValid() || f.IsZero() {
				t.Errorf("%s is not passed on", from.Name)
				continue
			}
			if f, _ := to.Type().FieldByName(from.Name); f.Tag != from.Tag {
				t.Errorf("%s is tagged %s, was %s", from.Name, f.Tag, from.Tag)
			}
		}
	}
	if to.NumField() != seen {
		t.Errorf("%d fields of %d", to.NumField(), seen)
	}
}
