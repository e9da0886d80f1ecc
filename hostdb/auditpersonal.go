package hostdb

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
)

// erased replaces an audit row's personal parts, and a person's words in payloads.
const erased = "[erased]"

// The personal parts of an audit row. The first two are JSON objects of columns. The others replace a column
// of the row.
const (
	partBefore  = "before"
	partAfter   = "after"
	partDetails = "details"
	partIP      = "ip_address"
)

// personalPart is a part of an audit row that can be erased (sys_audit_personal).
type personalPart struct {
	part    string
	owner   string // a user's id, or Stripe's customer
	content string
}

// personalParts returns the personal columns that a change affected, before and after it.
func (r *relation[M]) personalParts(before, after *M) (parts []personalPart, err error) {
	if r.owner == nil {
		return nil, nil
	}
	var zero M
	for _, side := range []struct {
		part    string
		m, than *M
	}{{partBefore, before, cmp.Or(after, &zero)}, {partAfter, after, cmp.Or(before, &zero)}} {
		if side.m == nil {
			continue
		}
		values := map[string]any{}
		for i := range r.columns {
			if c := &r.columns[i]; c.rule.personal && !reflect.DeepEqual(c.at(side.m), c.at(side.than)) {
				values[c.name] = c.at(side.m)
			}
		}
		if len(values) == 0 {
			continue
		}
		content, err := json.Marshal(values)
		if err != nil {
			return nil, &failure{text: "audit details: " + kindOf(err)}
		}
		parts = append(parts, personalPart{side.part, r.owner(side.m), string(content)})
	}
	return parts, nil
}

// storeAudit stores an audit row, whose columns are args. It stores the personal parts first, because none
// can be added to an existing row.
func (s session) storeAudit(ctx context.Context, a *HostAuditLog, args []any, parts []personalPart) error {
	if err := anyText.checkText("personal_of", a.PersonalOf); err != nil {
		return err
	}
	move := func(column string, part personalPart) {
		for i := range auditRelation.columns {
			if auditRelation.columns[i].name == column {
				args[i] = nil
			}
		}
		parts = append(parts, part)
	}
	if a.PersonalOf != "" && a.Details != "" {
		move("details", personalPart{partDetails, a.PersonalOf, a.Details})
	}
	if a.IPAddress != "" {
		move("ip_address", personalPart{partIP, cmp.Or(a.ActorUserID, a.PersonalOf, a.TargetID), a.IPAddress})
	}
	if len(parts) == 0 {
		_, err := s.exec(ctx, auditRelation.insertText(), args, asReported)
		return err
	}
	values, places := []any{a.ID}, make([]string, len(parts))
	for i, p := range parts {
		places[i] = fmt.Sprintf("($1, $%d, $%d, $%d)", 3*i+2, 3*i+3, 3*i+4)
		values = append(values, p.part, nullIfEmpty(p.owner), p.content)
	}
	return s.write(ctx, func(tx *Tx) error {
		in := session{db: s.db, tx: tx}
		_, err := in.exec(ctx, "INSERT INTO sys_audit_personal (audit_id, part, owner, content) VALUES "+
			strings.Join(places, ", "), values, asReported)
		if err == nil {
			_, err = in.exec(ctx, auditRelation.insertText(), args, asReported)
		}
		return err
	})
}

// addPersonalParts puts the personal parts back into audit rows.
func (s session) addPersonalParts(ctx context.Context, logs []*HostAuditLog) error {
	if len(logs) == 0 {
		return nil
	}
	ids, byID := make([]string, len(logs)), make(map[string]*HostAuditLog, len(logs))
	for i, a := range logs {
		ids[i], byID[a.ID] = a.ID, a
	}
	list, err := json.Marshal(ids)
	if err != nil {
		return &failure{text: "audit rows: " + kindOf(err)}
	}
	members := "SELECT value FROM json_each($1)"
	if s.db.engine == postgres {
		members = "SELECT jsonb_array_elements_text($1::text::jsonb)"
	}
	columns := map[string]map[string]json.RawMessage{} // of Details, by row
	err = s.query(ctx, "SELECT audit_id, part, owner, content FROM sys_audit_personal WHERE audit_id IN ("+
		members+")", []any{string(list)}, func(row scanner) error {
		var id string
		var p personalPart
		if err := row.Scan(&id, &p.part, &cell{&p.owner}, &p.content); err != nil {
			return err
		}
		return byID[id].setPart(p, columns)
	})
	if err != nil {
		return err
	}
	for id, details := range columns {
		encoded, err := json.Marshal(details)
		if err != nil {
			return &failure{text: "audit details: " + kindOf(err)}
		}
		byID[id].Details = string(encoded)
	}
	return nil
}

// setPart puts a part into its row, or into columns if it belongs to Details. It ignores a part that doesn't
// fit, which another program wrote.
func (a *HostAuditLog) setPart(p personalPart, columns map[string]map[string]json.RawMessage) error {
	switch p.part {
	case partIP:
		a.IPAddress = p.content
		return nil
	case partDetails:
		a.Details, a.PersonalOf = p.content, p.owner
		return nil
	}
	details, found := columns[a.ID]
	if !found && json.Unmarshal([]byte(a.Details), &details) != nil {
		return nil
	}
	var values map[string]json.RawMessage
	if json.Unmarshal([]byte(p.content), &values) != nil || details == nil {
		return nil
	}
	columns[a.ID] = details
	for name, value := range values {
		var both []json.RawMessage
		if json.Unmarshal(details[name], &both) != nil || len(both) != 2 {
			details[name] = value
			continue
		}
		if p.part == partBefore {
			both[0] = value
		} else {
			both[1] = value
		}
		encoded, err := json.Marshal(both)
		if err != nil {
			return &failure{text: "audit details: " + kindOf(err)}
		}
		details[name] = encoded
	}
	return nil
}
