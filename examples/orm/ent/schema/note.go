// Package schema describes the tenants' tables to ent.
package schema

import (
	"entgo.io/ent"
	"entgo.io/ent/schema/field"
)

// Note is a row of the table notes.
type Note struct{ ent.Schema }

// Fields implements ent.Interface.
func (Note) Fields() []ent.Field {
	return []ent.Field{field.String("body")}
}
