// Package deepcopy copies JSON values, including all that they contain.
package deepcopy

import (
	"encoding/json"
	"reflect"
)

// MaxValues and MaxDepth bound the copy of an object, which may contain itself. Both are more than a token
// can hold. A map that contains itself once reaches MaxDepth first. With MaxValues alone, the random order of
// the map would decide which of its outer members are copied.
const (
	MaxValues = 1 << 16
	MaxDepth  = 10_000 // as in encoding/json
)

// Object returns a copy of a JSON object that shares no maps, slices or arrays with it. Values beyond
// [MaxValues] or [MaxDepth] are nil. Pointers and other types are copied as they are.
func Object(v map[string]any) map[string]any {
	if len(v) == 0 && v != nil {
		return map[string]any{}
	}
	c := copier{left: MaxValues}
	return c.object(v)
}

// copier copies values within the bounds.
type copier struct {
	left  int // how many more values may be copied
	depth int // how many values contain the current one
}

// value returns a deep copy of a map, a slice or an array. It returns other values as they are.
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

// object returns a deep copy of a JSON object.
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

// array returns a deep copy of a JSON array.
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

// reflected returns a deep copy of a map, a slice or an array whose type isn't that of JSON.
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
		own := reflect.New(v.Type()).Elem()
		if v.Kind() == reflect.Slice && !v.IsNil() {
			own.Set(reflect.MakeSlice(v.Type(), v.Len(), v.Len()))
		}
		for i := range v.Len() {
			own.Index(i).Set(c.reflected(v.Index(i)))
		}
		return own
	}
	return v
}
