package fleet

import (
	"fmt"
	"io"
	"net/url"
	"strings"

	"github.com/tenantdb/tenantdb/hostdb"
)

// withoutSecrets takes a db_url's passwords out of a text, as they are and as they are written in a URL.
func withoutSecrets(text string, dbURL hostdb.Secret) string {
	u, err := url.Parse(dbURL.Reveal())
	if err != nil {
		return text
	}
	password, _ := u.User.Password()
	query := u.Query()
	for _, secret := range []string{password, query.Get("password"), query.Get("sslpassword")} {
		if secret == "" {
			continue
		}
		_, escaped, _ := strings.Cut(url.UserPassword("", secret).String(), ":")
		for _, form := range []string{secret, escaped, url.QueryEscape(secret)} {
			text = strings.ReplaceAll(text, form, "***")
		}
	}
	return text
}

// Format implements fmt.Formatter: whatever the verb, it writes the server's mask, and nothing else.
func (c Config) Format(f fmt.State, _ rune) {
	_, _ = io.WriteString(f, "fleet.Config{"+c.Server.String()+"}")
}
