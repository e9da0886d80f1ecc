// Package deepcopy copies values of JSON, with all that is in them.
package deepcopy

import (
	"encoding/json"
	"reflect"
)

// MaxValues and MaxDepth bound what is copied of an object, also if it contains itself. Both
// are more than a token can hold. The bound on the depth comes first for a map that contains itself once.
// Without it, the order in which Go ranges over a map would decide which of the outer members are left out.
const (
	MaxValues = 1 << 16
	MaxDepth  = 10_000 // as in encoding/json
)

// Object returns a copy of a JSON object that shares no maps, slices or arrays with it. What lies beyond
// [MaxValues] or [MaxDepth] is nil. Pointers and other types are copied as they are.
func Object(v map[string]any) map[string]any {
	if len(v) == 0 && v != nil {
		return map[string]any{}
	}
	c := copier{left: MaxValues}
	return c.object(v)
}

// copier copies values until a bound is reached. What lies beyond is nil.
type copier struct{ left, depth int }

// value copies a value of JSON, a map, a slice or an array with all that is in it. Others are returned as
// they are.
func (c *copier) value(v any) any {
	switch v.(type) {
	case nil, string, bool, json.Number, float64:
		c.left--
		return v
	}
	if c.left--; c.left < 0 || c.depth == MaxDepth {
		return nil
	}
	c.depth++
	defer func() { c.depth-- }()
	switch v := v.(type) {
	case map[string]any:
		return c.object(v)
	case []any:
		return c.array(v)
	}
	return c.reflected(reflect.ValueOf(v)).Interface()
}

// object copies a JSON object.
func (c *copier) object(v map[string]any) map[string]any {
	if v == nil {
		return nil
	}
	own := make(map[string]any, len(v))
	for name, member := range v {
		own[name] = c.value(member)
	}
	return own
}

// array copies a JSON array.
func (c *copier) array(v []any) []any {
	if v == nil {
		return nil
	}
	own := make([]any, len(v))
	for i, element := range v {
		own[i] = c.value(element)
	}
	return own
}

// reflected copies maps, slices and arrays of other types than JSON's.
func (c *copier) reflected(v reflect.Value) reflect.Value {
	if c.left--; c.left < 0 || c.depth == MaxDepth {
		return reflect.Zero(v.Type())
	}
	c.depth++
	defer func() { c.depth-- }()
	switch v.Kind() {
	case reflect.Interface:
		if v.IsNil() {
			return v
		}
		own := reflect.New(v.Type()).Elem()
		if element := c.value(v.Interface()); element != nil {
			own.Set(reflect.ValueOf(element))
		}
		return own
	case reflect.Map:
		if v.IsNil() {
			return v
		}
		own := reflect.MakeMapWithSize(v.Type(), v.Len())
		for entries := v.MapRange(); entries.Next(); {
			own.SetMapIndex(entries.Key(), c.reflected(entries.Value()))
		}
		return own
	case reflect.Slice, reflect.Array:
		if v.Kind() == reflect.Slice && v.IsNil() {
			return v
		}
		own := reflect.New(v.Type()).Elem()
		if v.Kind() == reflect.Slice {
			own.Set(reflect.MakeSlice(v.Type(), v.Len(), v.Len()))
		}
		for i := range v.Len() {
			own.Index(i).Set(c.reflected(v.Index(i)))
		}
		return own
	}
	return v
}
