package fleet

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/mfridman/interpolate"
)

// statement is one SQL statement of a migration.
type statement struct {
	text string
	line int // the line of the file where it begins
}

// parsed is a migration's file.
type parsed struct {
	up, down []statement
	noTx     bool // -- +goose NO TRANSACTION
}

// The sections of a file.
const (
	beforeUp = iota
	inUp
	inDown
)

// parser reads a file in goose's format (https://github.com/pressly/goose#sql-migrations) line by line.
// Unlike goose's own parser it keeps line numbers, and reads both sections at once.
type parser struct {
	parsed
	section int
	block   int // the line of the open StatementBegin, or 0
	envsub  bool

	pending strings.Builder // the current statement
	line    int             // the current line
	began   int             // the line where pending begins
}

// parseSQL parses a migration's file. Its errors begin with the line.
func parseSQL(text string) (parsed, error) {
	var p parser
	for line := range strings.Lines(text) {
		p.line++
		if err := p.read(strings.TrimSuffix(strings.TrimSuffix(line, "\n"), "\r")); err != nil {
			return parsed{}, fmt.Errorf("%d: %w", p.line, err)
		}
	}
	switch {
	case p.section == beforeUp:
		return parsed{}, fmt.Errorf("%d: there is no -- +goose Up", max(1, p.line))
	case p.block > 0:
		return parsed{}, fmt.Errorf("%d: this -- +goose StatementBegin has no -- +goose StatementEnd",
			p.block)
	}
	err := p.finished()
	if err != nil {
		err = fmt.Errorf("%d: %w", p.line, err)
	}
	return p.parsed, err
}

// read reads one line.
func (p *parser) read(line string) error {
	trimmed := strings.TrimSpace(line)
	comment := strings.HasPrefix(trimmed, "--")
	if comment && strings.Contains(line, "+goose") {
		return p.annotation(line)
	}
	if p.pending.Len() == 0 && (comment || trimmed == "") {
		return nil
	}
	if p.section == beforeUp {
		return errors.New("a statement stands before -- +goose Up")
	}
	if p.envsub {
		var err error
		if line, err = interpolate.Interpolate(environment{}, line); err != nil {
			return fmt.Errorf("-- +goose ENVSUB: %w", err)
		}
	}
	if p.pending.Len() == 0 {
		p.began = p.line
	}
	p.pending.WriteString(line + "\n")
	if p.block == 0 && endsStatement(line) {
		p.end()
	}
	return nil
}

// annotation reads a line such as -- +goose Up.
func (p *parser) annotation(line string) error {
	word := strings.Replace(strings.ReplaceAll(line, "--", ""), "+goose", "", 1)
	word = strings.ToUpper(strings.TrimSpace(word))
	if strings.HasPrefix(line, " ") || strings.HasPrefix(line, "\t") {
		return errors.New("-- +goose must stand at the beginning of the line")
	}
	switch word {
	case "UP":
		if p.section != beforeUp {
			return errors.New("a second -- +goose Up")
		}
		p.section = inUp
	case "DOWN":
		if p.section != inUp || p.block > 0 {
			return errors.New("-- +goose Down must follow -- +goose Up, once, and outside of a block")
		}
		if err := p.finished(); err != nil {
			return err
		}
		p.section = inDown
	case "STATEMENTBEGIN":
		if p.section == beforeUp || p.block > 0 {
			return errors.New("-- +goose StatementBegin must follow -- +goose Up or Down, outside of a block")
		}
		p.block = p.line
	case "STATEMENTEND":
		if p.block == 0 {
			return errors.New("-- +goose StatementEnd without a -- +goose StatementBegin")
		}
		p.block = 0
		p.end()
	case "NO TRANSACTION":
		p.noTx = true
	case "ENVSUB ON", "ENVSUB OFF":
		p.envsub = word == "ENVSUB ON"
	default:
		return fmt.Errorf("there is no annotation -- +goose %s", word)
	}
	return nil
}

// end adds the pending statement to its section.
func (p *parser) end() {
	s := statement{strings.TrimSpace(p.pending.String()), p.began}
	p.pending.Reset()
	switch {
	case s.text == "":
	case p.section == inUp:
		p.up = append(p.up, s)
	default:
		p.down = append(p.down, s)
	}
}

// finished returns an error for a statement without an end.
func (p *parser) finished() error {
	if strings.TrimSpace(p.pending.String()) == "" {
		return nil
	}
	p.line = p.began
	return errors.New("the statement that begins here has no semicolon at the end of a line")
}

// endsStatement reports whether a line's last word before a comment ends with a semicolon.
func endsStatement(line string) bool {
	last := ""
	for word := range strings.FieldsSeq(line) {
		if strings.HasPrefix(word, "--") {
			break
		}
		last = word
	}
	return strings.HasSuffix(last, ";")
}

// environment is the process's environment, for -- +goose ENVSUB.
type environment struct{}

// Get implements [interpolate.Env].
func (environment) Get(name string) (string, bool) { return os.LookupEnv(name) }
