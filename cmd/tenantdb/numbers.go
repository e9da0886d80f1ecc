package main

import (
	"reflect"
	"strings"
	"time"

	"github.com/alecthomas/kong"
)

// signed decodes a number or a duration that may be negative. In --max-failures -1, kong itself takes -1 for
// a flag.
type signed struct{ kong.Mapper }

// Decode implements [kong.Mapper].
func (m signed) Decode(ctx *kong.DecodeContext, target reflect.Value) error {
	if next, ok := ctx.Scan.Peek().Value.(string); ok && negative(next) {
		ctx.Scan.Pop()
		ctx = ctx.WithScanner(kong.ScanAsType(kong.FlagValueToken, next))
	}
	return m.Mapper.Decode(ctx, target)
}

// negative reports whether a word begins like a negative number. No short flag is a digit.
func negative(word string) bool {
	digits, found := strings.CutPrefix(word, "-")
	return found && digits != "" && (digits[0] == '.' || digits[0] >= '0' && digits[0] <= '9')
}

// signedNumbers returns options that decode every number and duration with signed.
func signedNumbers() []kong.Option {
	defaults := kong.NewRegistry().RegisterDefaults()
	duration := reflect.TypeFor[time.Duration]()
	options := []kong.Option{kong.TypeMapper(duration, signed{defaults.ForType(duration)})}
	numbers := []reflect.Type{reflect.TypeFor[int](), reflect.TypeFor[int64](), reflect.TypeFor[float64]()}
	for _, number := range numbers {
		options = append(options, kong.KindMapper(number.Kind(), signed{defaults.ForType(number)}))
	}
	return options
}
