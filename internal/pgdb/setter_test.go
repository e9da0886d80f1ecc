package pgdb

import (
	"strings"
	"testing"
)

func TestSetter_isKnownByTheStatementsText(t *testing.T) {
	for text, want := range map[string]bool{
		"SELECT pg_advisory_lock(7)":                                          true,
		"select PG_ADVISORY_LOCK(7)":                                          true,
		"SELECT pg_Try_Advisory_Lock(7)":                                      true,
		"SELECT Pg_aDvIsOrY_LoCk_Shared(7)":                                   true,
		"SELECT pg_catalog.pg_advisory_lock (7)":                              true,
		"SELECT pg_catalog . pg_advisory_lock(7)":                             true,
		`SELECT "pg_advisory_lock"(7)`:                                        true,
		`SELECT "pg_catalog"."pg_try_advisory_lock_shared"(7, 8)`:             true,
		"SELECT /* once */\n\tpg_advisory_lock\n--\n(7)":                      true,
		"WITH a_b AS (SELECT 1) SELECT pg_advisory_lock(n) FROM a_b":          true,
		"DO $$ BEGIN PERFORM pg_advisory_lock(7); END $$":                     true,
		"SELECT pg_advisory_xact_lock(7)":                                     false,
		"SELECT pg_advisory_unlock(7)":                                        false,
		"SELECT pg_advisory_unlock_all()":                                     false,
		"SELECT advisory, lock_, _lock, advisory_ FROM t":                     false,
		"SELECT set_config('a.b', 'c', false)":                                true,
		"SELECT Set_Config('a.b', 'c', FALSE)":                                true,
		"SELECT set_config($1, $2, $3)":                                       true,
		"SELECT pg_catalog.set_config('a.b', 'c', false)":                     true,
		`SELECT "set_config"('a.b', 'c', false)`:                              true,
		"SELECT set_config\n/* x */ ('a.b', 'c', false)":                      true,
		"SELECT set_config('a.b', 'c', false /*, true */)":                    true,
		"SELECT set_config('a.b', 'c', false --, true\n)":                     true,
		"SELECT set_config('a.b', $$', true)$$, false)":                       true,
		`SELECT set_config('a.b', E'\', true)', false)`:                       true,
		"SELECT set_config('a.b', 'x'', true)', false)":                       true,
		"SELECT set_config('a', 'b', true), set_config('a', 'b', false)":      true,
		"SELECT set_config('a', 'b', true AND false)":                         true,
		"SELECT set_config('a', f('b', true), false)":                         true,
		"SELECT set_config('a', 'b', true":                                    true,
		"SELECT set_config":                                                   true,
		"SELECT set_config('a.b', 'c', true)":                                 false,
		"SELECT set_config($1, $2, TRUE)":                                     false,
		"SELECT pg_catalog.set_config ( 'a.b' , f('x', 'y''(') , true ) AS x": false,
		`SELECT "set_config"('a.b', 'c', true)`:                               false,
		"SELECT current_setting('a.b', true)":                                 false,
		"UPDATE set_configs SET a_b = 1":                                      true, // costs a reset, no more
		`SELECT U&"set\005fconfig"('a.b', 'c', false)`:                        true,
		`SELECT u&"pg!005fadvisory!005flock" UESCAPE '!' (7)`:                 true,
		`SELECT pg_catalog.U&"\0073et_config"('a.b', 'c', true)`:              true,
		"UPDATE pg_settings SET setting = 'c' WHERE name = 'a.b'":             true,
		`UPDATE "pg_catalog"."pg_settings" SET setting = 'c'`:                 true,
		`SELECT '&"', a&"b", U & "c" FROM "U"`:                                false,
		`&"`:                                                                  false,
		"SELECT 1":                                                            false,
		"":                                                                    false,
		"_":                                                                   false,
	} {
		if got := callsSetter([]byte(text)); got != want {
			t.Errorf("%q: %v", text, got)
		}
	}
}

func TestSetter_searchAllocatesNothing(t *testing.T) {
	const statement = "SELECT a_b, c_d FROM e_f WHERE set_config('a', $1, true) <> '' AND advisory_x = 1;"
	text := []byte(strings.Repeat(statement, 20))
	if n := testing.AllocsPerRun(100, func() {
		if callsSetter(text) {
			t.Error("a setter was found where there is none")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkCallsSetter(b *testing.B) {
	text := []byte("SELECT n.id, n.body, n.created_at FROM notes n JOIN note_tags t ON t.note_id = n.id " +
		"WHERE t.tag_name = $1 ORDER BY n.created_at")
	for b.Loop() {
		callsSetter(text)
	}
}
