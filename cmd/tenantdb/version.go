package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

// version is what --version prints: the module's version, that of Go, and the platform.
func version() string {
	info, _ := debug.ReadBuildInfo()
	return fmt.Sprintf("tenantdb %s %s %s/%s", versionOf(info), runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

// versionOf is the version of the module that a command was built from, as go install and go build record it.
// A build that records none is (devel), which is Go's own word.
func versionOf(info *debug.BuildInfo) string {
	if info == nil || info.Main.Version == "" {
		return "(devel)"
	}
	return info.Main.Version
}
