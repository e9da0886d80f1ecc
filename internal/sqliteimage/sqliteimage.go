// Package sqliteimage keeps the contents of migrated SQLite files, so that the tests of a program migrate one
// file instead of one each.
package sqliteimage

import (
	"io/fs"
	"sync"
)

// Images are contents of files by key. The zero value has none. It is safe for concurrent use. It keeps what
// was made as long as it lives.
type Images struct{ byKey sync.Map } // key → *image

// image is the content of one file.
type image struct {
	mu      sync.Mutex // guards content; locked while it is made
	content []byte     // nil until it was made
}

// Get returns the content for a key. The first call makes it, and others wait for that. After an error the
// next call makes it. The caller must not change the content.
func (i *Images) Get(key string, make func() ([]byte, error)) ([]byte, error) {
	entry, _ := i.byKey.LoadOrStore(key, new(image))
	one := entry.(*image)
	one.mu.Lock()
	defer one.mu.Unlock()
	if one.content == nil {
		content, err := make()
		if err != nil {
			return nil, err
		}
		one.content = content
	}
	return one.content, nil
}

// Migrations are migrations whose files' images are shared.
type Migrations struct {
	fs.FS
	Images *Images
}
