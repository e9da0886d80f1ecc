package pgtest

// Launch is Start for a program that is no test: it returns also what ends the server and removes its files.
func Launch(settings ...string) (*Server, func(), error) {
	s, err := start(settings...)
	if err != nil {
		return nil, nil, err
	}
	return s, s.remove, nil
}

// LaunchPgBouncer is StartPgBouncer for a program that is no test.
func LaunchPgBouncer(s *Server, settings ...string) (*PgBouncer, func(), error) {
	b := new(PgBouncer)
	if err := b.start(s, settings); err != nil {
		b.remove()
		return nil, nil, err
	}
	return b, b.remove, nil
}

// URL returns the URL of a database of the server through the pooler.
func (b *PgBouncer) URL(database string) string {
	return b.at("/" + database)
}
