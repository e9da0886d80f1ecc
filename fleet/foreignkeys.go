package fleet

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"unicode"

	"github.com/pressly/goose/v3/database"
)

// In SQLite, DROP TABLE first deletes the table's rows. With foreign keys on, that also deletes the rows that
// refer to them with ON DELETE CASCADE. So a migration that rebuilds a table runs with foreign keys off, and
// the keys are checked before it ends (https://www.sqlite.org/lang_altertable.html#otheralter). Foreign keys
// can't be switched within a transaction.

// errViolation means that rows refer to missing rows.
var errViolation = errors.New("PRAGMA foreign_key_check")

// needsKeysOff reports whether a section must run with foreign keys off. It must if it says so, if it drops a
// table that others may refer to, or if it is a Go function in a transaction, which may do anything.
func (part *section) needsKeysOff(ctx context.Context, on database.DBTxConn) (bool, error) {
	if part.inTx != nil {
		return true, nil
	}
	var dropped []string
	newReference := false
	for _, s := range part.statements {
		words := wordsOf(s.text)
		if switchesKeysOff(words) {
			return true, nil
		}
		dropped = append(dropped, droppedIn(words)...)
		// a table that refers to another may be renamed, or created, by the migration
		for _, w := range words {
			newReference = newReference || w.is("REFERENCES") || w.is("RENAME")
		}
	}
	if len(dropped) == 0 || newReference {
		return len(dropped) > 0, nil
	}
	for _, table := range dropped {
		var referred int
		err := on.QueryRowContext(ctx, `
			SELECT count(*) FROM sqlite_schema AS t, pragma_foreign_key_list(t.name) AS k
			WHERE t.type = 'table' AND k."table" = ?1 COLLATE NOCASE AND t.name <> ?1 COLLATE NOCASE`,
			table).Scan(&referred)
		if err != nil || referred > 0 {
			return true, err
		}
	}
	return false, nil
}

// switchesKeysOff reports whether a statement contains PRAGMA foreign_keys = OFF in one of its spellings.
func switchesKeysOff(words []word) bool {
	for i := range words {
		if !words[i].is("FOREIGN_KEYS") || i+2 >= len(words) || !words[i+1].is("=") && !words[i+1].is("(") {
			continue
		}
		switch strings.ToUpper(words[i+2].text) {
		case "OFF", "0", "NO", "FALSE":
			return true
		}
	}
	return false
}

// droppedIn returns the tables that a statement drops.
func droppedIn(words []word) (tables []string) {
	for i := 0; i+2 < len(words); i++ {
		if !words[i].is("DROP") || !words[i+1].is("TABLE") {
			continue
		}
		at := i + 2
		if at+2 < len(words) && words[at].is("IF") && words[at+1].is("EXISTS") {
			at += 2
		}
		if at+2 < len(words) && words[at+1].is(".") {
			at += 2
		}
		tables = append(tables, words[at].text)
	}
	return tables
}

// word is a token of SQL: a word, a quoted name or string without its quotes, or another character.
type word struct {
	text   string
	quoted bool
}

// is reports whether w is a keyword or a character.
func (w word) is(keyword string) bool { return !w.quoted && strings.EqualFold(w.text, keyword) }

// wordsOf splits SQL into words, without its comments.
func wordsOf(text string) (words []word) {
	for text != "" {
		switch c := text[0]; {
		case strings.HasPrefix(text, "--"):
			_, text, _ = strings.Cut(text, "\n")
		case strings.HasPrefix(text, "/*"):
			_, text, _ = strings.Cut(text[2:], "*/")
		case c == '\'' || c == '"' || c == '`':
			var name string
			name, text = unquoted(text[1:], c)
			words = append(words, word{name, true})
		case c == '[':
			var name string
			name, text, _ = strings.Cut(text[1:], "]")
			words = append(words, word{name, true})
		default:
			n := strings.IndexFunc(text, func(r rune) bool {
				return !unicode.IsLetter(r) && !unicode.IsDigit(r) && r != '_' && r != '$'
			})
			switch {
			case n < 0:
				n = len(text)
			case n == 0:
				n = 1
			}
			if trimmed := strings.TrimSpace(text[:n]); trimmed != "" {
				words = append(words, word{trimmed, false})
			}
			text = text[n:]
		}
	}
	return words
}

// unquoted splits a text, whose opening quote is cut off, after the closing quote. A doubled quote stands for
// one.
func unquoted(text string, quote byte) (content, rest string) {
	var b strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] == quote {
			if i+1 == len(text) || text[i+1] != quote {
				return b.String(), text[i+1:]
			}
			i++
		}
		b.WriteByte(text[i])
	}
	return b.String(), ""
}

// setForeignKeys switches foreign keys on or off and verifies that SQLite did so.
func setForeignKeys(ctx context.Context, on database.DBTxConn, enabled bool) error {
	want := 0
	if enabled {
		want = 1
	}
	if _, err := on.ExecContext(ctx, fmt.Sprintf("PRAGMA foreign_keys = %d", want)); err != nil {
		return err
	}
	var got int
	if err := on.QueryRowContext(ctx, "PRAGMA foreign_keys").Scan(&got); err != nil {
		return err
	}
	if got != want {
		return errors.New("PRAGMA foreign_keys can't be set: is a transaction open?")
	}
	return nil
}

// checkKeys calls do. With keysOff it fails if afterwards more rows refer to missing rows than before.
func checkKeys(ctx context.Context, on database.DBTxConn, keysOff bool, do func() error) error {
	if !keysOff {
		return do()
	}
	before, _, err := violations(ctx, on)
	if err != nil && !strings.Contains(err.Error(), "foreign key mismatch") { // do may repair this one
		return err
	}
	if err := do(); err != nil {
		return err
	}
	after, where, err := violations(ctx, on)
	if err == nil && after > before {
		err = fmt.Errorf("%w: the migration ran with foreign keys off, since it rebuilds a table, "+
			"so ON DELETE had no effect: %s", errViolation, where)
	}
	return err
}

// violations counts the rows that refer to missing rows, and describes where they are.
func violations(ctx context.Context, on database.DBTxConn) (n int, where string, err error) {
	rows, err := on.QueryContext(ctx,
		`SELECT "table", parent, count(*) FROM pragma_foreign_key_check GROUP BY 1, 2 ORDER BY 1, 2`)
	if err != nil {
		return 0, "", fmt.Errorf("%w: %w", errViolation, err)
	}
	defer rows.Close()
	var found []string
	for rows.Next() {
		var child, parent string
		var count int
		if err := rows.Scan(&child, &parent, &count); err != nil {
			return 0, "", err
		}
		n += count
		found = append(found,
			fmt.Sprintf("rows of %q that refer to missing rows of %q: %d", child, parent, count))
	}
	return n, strings.Join(found, ", "), rows.Err()
}
