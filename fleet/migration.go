package fleet

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/pressly/goose/v3"
)

// migration is one migration of the tenants' schema.
type migration struct {
	version  int64
	name     string // the file's name, or the name of a Go migration in errors
	up, down section
}

// section is one direction of a migration: statements, or one of the two functions, or nothing.
type section struct {
	statements []statement
	inTx       func(context.Context, *sql.Tx) error
	onDB       func(context.Context, *sql.DB) error
	noTx       bool // it runs without a transaction
}

// fromFile makes a migration from a file's text. Its errors name the file and the line.
func fromFile(version int64, name, text string) (migration, error) {
	p, err := parseSQL(text)
	if err != nil {
		return migration{}, fmt.Errorf("%s:%w", name, err)
	}
	return migration{version, name, section{statements: p.up, noTx: p.noTx},
		section{statements: p.down, noTx: p.noTx}}, nil
}

// fromGo makes a migration from one that [goose.NewGoMigration] made.
func fromGo(m *goose.Migration) (migration, error) {
	switch {
	case m == nil:
		return migration{}, errors.New("a Go migration is nil")
	case m.Type != goose.TypeGo || m.Version < 1:
		return migration{}, fmt.Errorf("Go migration %d: make it with goose.NewGoMigration and a version "+
			"above 0", m.Version)
	case m.UpFnContext != nil && m.UpFnNoTxContext != nil,
		m.DownFnContext != nil && m.DownFnNoTxContext != nil:
		return migration{}, fmt.Errorf("Go migration %d: give RunTx or RunDB, not both", m.Version)
	}
	return migration{m.Version, fmt.Sprintf("Go migration %d", m.Version),
		section{inTx: m.UpFnContext, onDB: m.UpFnNoTxContext},
		section{inTx: m.DownFnContext, onDB: m.DownFnNoTxContext}}, nil
}
