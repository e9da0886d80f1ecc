package hostdb

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
)

// person is the user whom an erasure or an export concerns, with every word by which payloads may name them.
type person struct {
	id        string
	customers []string // at Stripe, now and earlier, except those that other users have
	words     []string // e-mail addresses, subjects and customers, now and earlier; folded
}

// shortWord is the length below which a word only matches a whole text. A subject such as "7" occurs in
// every payload.
const shortWord = 6

// person finds the words that name a user, in the user's row and in what the audit log still contains of
// earlier ones. It leaves out a Stripe customer that other users have too. Errors: ErrNotFound for a user
// that neither exists nor is in the audit log; ErrInvalid.
func (db *DB) person(ctx context.Context, userID string) (*person, error) {
	p := &person{id: userID}
	user, err := db.Users.Get(ctx, userID)
	if errors.Is(err, ErrNotFound) {
		user = &GlobalUser{}
		_, err = db.AuditLogs.one(ctx, "WHERE target_id = $1 LIMIT 1", userID)
	}
	if err != nil {
		return nil, err
	}
	p.add(user.Email, user.OAuthID)
	customers := []string{user.StripeCustID}
	err = session{db: db}.query(ctx,
		"SELECT content FROM sys_audit_personal WHERE owner = $1 AND part IN ('before', 'after')",
		[]any{userID}, func(row scanner) error {
			var content string
			var was struct {
				Email    string `json:"email"`
				OAuthID  string `json:"oauth_id"`
				Customer string `json:"stripe_cust_id"`
			}
			if err := row.Scan(&content); err != nil {
				return err
			}
			if json.Unmarshal([]byte(content), &was) == nil {
				p.add(was.Email, was.OAuthID)
				customers = append(customers, was.Customer)
			}
			return nil
		})
	for _, customer := range customers {
		if err == nil {
			err = db.addCustomer(ctx, p, customer)
		}
	}
	return p, err
}

// addCustomer adds a Stripe customer unless another user has it.
func (db *DB) addCustomer(ctx context.Context, p *person, customer string) error {
	if customer == "" || slices.Contains(p.customers, customer) {
		return nil
	}
	var other string
	err := session{db: db}.queryRow(ctx,
		"SELECT id FROM core_users WHERE stripe_cust_id = $1 AND id <> $2 LIMIT 1", []any{customer, p.id},
		&other)
	if errors.Is(err, ErrNotFound) {
		p.customers = append(p.customers, customer)
		p.add(customer)
		return nil
	}
	return err
}

// add adds words that are new.
func (p *person) add(words ...string) {
	for _, word := range words {
		if folded := foldASCII(word); folded != "" && !slices.Contains(p.words, folded) {
			p.words = append(p.words, folded)
		}
	}
}

// containsWord reports whether a text contains one of the person's words, other than as part of a longer
// word, which is somebody else's.
func (p *person) containsWord(text string) bool {
	return p.replaceWords(text) != text
}

// mentions reports whether a text contains the person's id or one of their words.
func (p *person) mentions(text string) bool {
	return strings.Contains(text, p.id) || p.containsWord(text)
}

// mentionsIn reports whether a payload, JSON or not, contains the person's id or one of their words, however
// its JSON is escaped.
func (p *person) mentionsIn(payload string) bool {
	if p.mentions(payload) {
		return true
	}
	value, ok := decodeJSON(payload)
	return ok && anyString(value, p.mentions)
}

// redact replaces the person's words in a payload and leaves the rest as it is.
func (p *person) redact(payload string) string {
	value, ok := decodeJSON(payload)
	if !ok {
		return p.replaceWords(payload)
	}
	if !anyString(value, p.containsWord) {
		return payload
	}
	return encodeJSON(mapStrings(value, p.replaceWords))
}

// replaceWords replaces the person's words in a text.
func (p *person) replaceWords(text string) string {
	for _, word := range p.words {
		text = replaceWord(text, word)
	}
	return text
}

// replaceWord replaces a folded word in a text wherever it isn't part of a longer one.
func replaceWord(text, word string) string {
	folded := foldASCII(text)
	if folded == word {
		return erased
	}
	if len(word) < shortWord || !strings.Contains(folded, word) {
		return text
	}
	var b strings.Builder
	done := 0
	for from := 0; ; {
		i := strings.Index(folded[from:], word)
		if i < 0 {
			b.WriteString(text[done:])
			return b.String()
		}
		i += from
		from = i + 1
		if !insideWord(folded, i, i+len(word)) {
			b.WriteString(text[done:i])
			b.WriteString(erased)
			done, from = i+len(word), i+len(word)
		}
	}
}

// insideWord reports whether text[from:to] is part of a longer address or word.
func insideWord(text string, from, to int) bool {
	if from > 0 && (wordByte(text[from-1]) || strings.IndexByte("._+%-", text[from-1]) >= 0) {
		return true
	}
	if to == len(text) {
		return false
	}
	next := text[to]
	return wordByte(next) || next == '-' || next == '_' || next == '.' && to+1 < len(text) &&
		wordByte(text[to+1])
}

// wordByte reports whether a byte of a folded text belongs to a letter or digit.
func wordByte(c byte) bool {
	return 'a' <= c && c <= 'z' || '0' <= c && c <= '9' || c >= 0x80
}

// mentionedInJob reports whether a job mentions the person.
func (p *person) mentionedInJob(j *SystemJob) bool {
	return p.mentionsIn(j.Payload) || p.mentions(j.ErrorLog) || p.mentions(j.DedupeKey)
}

// mentionedInEvent reports whether a webhook event mentions the person.
func (p *person) mentionedInEvent(e *StripeWebhookEvent) bool {
	return p.mentionsIn(e.PayloadJSON)
}
