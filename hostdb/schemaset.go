package hostdb

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strconv"
	"strings"
)

// SchemaSets are the sets of migrations that tenants' databases have (sys_schema_sets).
// [TenantCatalog.SchemaSet] names one. Tenants with the same migrations share a set, so there are few.
type SchemaSets struct{ s session }

// maxSchemaSet is the maximum number of versions in a set.
const maxSchemaSet = 50_000

// newestSchemaSets is how many sets Newest returns.
const newestSchemaSets = 1000

// Record stores a set of versions unless it is stored already, and returns its id. The order of the versions
// doesn't matter. The same set has the same id in every host database. Errors: ErrInvalid.
func (t SchemaSets) Record(ctx context.Context, versions []int64) (string, error) {
	if len(versions) > maxSchemaSet {
		return "", invalid("versions", "are more than 50,000")
	}
	sorted := slices.Clone(versions)
	slices.Sort(sorted)
	var text strings.Builder
	for i, version := range slices.Compact(sorted) {
		if i > 0 {
			text.WriteByte(' ')
		}
		text.WriteString(strconv.FormatInt(version, 10))
	}
	sum := sha256.Sum256([]byte(text.String()))
	id := hex.EncodeToString(sum[:16])
	_, err := t.s.exec(ctx, "INSERT INTO sys_schema_sets (id, versions) VALUES ($1, $2) "+
		"ON CONFLICT DO NOTHING", []any{id, text.String()}, asReported)
	return id, err
}

// Newest returns the versions of the 1,000 newest sets, by the sets' ids.
func (t SchemaSets) Newest(ctx context.Context) (map[string][]int64, error) {
	sets := make(map[string][]int64)
	text := "SELECT id, versions FROM sys_schema_sets ORDER BY created_at DESC, id LIMIT " +
		strconv.Itoa(newestSchemaSets)
	err := t.s.query(ctx, text, nil, func(row scanner) error {
		var id, versions string
		if err := row.Scan(&id, &versions); err != nil {
			return err
		}
		set := []int64{}
		for word := range strings.FieldsSeq(versions) {
			version, err := strconv.ParseInt(word, 10, 64)
			if err != nil {
				return &failure{text: "a schema set contains a text that isn't a version"}
			}
			set = append(set, version)
		}
		sets[id] = set
		return nil
	})
	return sets, err
}
