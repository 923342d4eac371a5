package agent

import (
	"reflect"
	"testing"

	"shoal/catalog"
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

// TestTheStoresStatusIsPassedOnWhole: with every field, by the same names.
func TestTheStoresStatusIsPassedOnWhole(t *testing.T) {
	var s catalog.Status
	from := reflect.ValueOf(&s).Elem()
	for i := range from.NumField() {
		switch f := from.Field(i); f.Kind() {
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
	to := reflect.ValueOf(storeStatus(s))
	if to.NumField() != from.NumField() {
		t.Errorf("%d fields of %d", to.NumField(), from.NumField())
	}
	for i := range from.NumField() {
		name := from.Type().Field(i).Name
		if f := to.FieldByName(name); !f.IsValid() || f.IsZero() {
			t.Errorf("%s is not passed on", name)
			continue
		}
		if f, _ := to.Type().FieldByName(name); f.Tag != from.Type().Field(i).Tag {
			t.Errorf("%s is tagged %s, was %s", name, f.Tag, from.Type().Field(i).Tag)
		}
	}
}
