package main

import (
	"reflect"
	"strings"
	"time"

	"github.com/alecthomas/kong"
)

// signed reads the value of a flag that is a number or a duration, which may be negative: in --max-failures
// -1 kong itself takes -1 for a flag.
type signed struct{ kong.Mapper }

// Decode implements kong.Mapper.
func (m signed) Decode(ctx *kong.DecodeContext, target reflect.Value) error {
	if next, ok := ctx.Scan.Peek().Value.(string); ok && negative(next) {
		ctx.Scan.Pop()
		ctx = ctx.WithScanner(kong.ScanAsType(kong.FlagValueToken, next))
	}
	return m.Mapper.Decode(ctx, target)
}

// negative reports whether a word begins as a negative number does. No flag of one letter is a digit.
func negative(word string) bool {
	digits, found := strings.CutPrefix(word, "-")
	return found && digits != "" && (digits[0] == '.' || digits[0] >= '0' && digits[0] <= '9')
}

// signedNumbers are the options that have every number and duration read by signed.
func signedNumbers() []kong.Option {
	defaults := kong.NewRegistry().RegisterDefaults()
	options := []kong.Option{kong.TypeMapper(reflect.TypeFor[time.Duration](), signed{defaults.ForType(reflect.TypeFor[time.Duration]())})}
	for _, number := range []reflect.Type{reflect.TypeFor[int](), reflect.TypeFor[int64](), reflect.TypeFor[float64]()} {
		options = append(options, kong.KindMapper(number.Kind(), signed{defaults.ForType(number)}))
	}
	return options
}
