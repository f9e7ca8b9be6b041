package store

import (
	"context"
	"crypto/sha1"
	"encoding/hex"
	"fmt"
	"reflect"
	"strconv"
	"sync"
	"time"
)

// MaxInt and MinInt bound every integer that a decision takes, stores or returns: Lua's
// numbers are doubles, exact up to here.
const (
	MaxInt = 1 << 53
	MinInt = -1 << 53
)

// Remote is a decision's body for Valkey and Redis.
type Remote struct {
	lua     string
	command []string
}

// Lua is a script. Its KEYS and ARGV are the fields of In in order, its reply an array of the
// fields of Out in order. It takes time from redis.call('TIME') and formats integers with
// '%.0f'.
func Lua(src string) Remote { return Remote{lua: src} }

// Command is one command, for decisions that need no script: words, then the keys, then the
// arguments. Its reply is Out's only field.
func Command(words ...string) Remote { return Remote{command: words} }

// Decision is one atomic step on the keys of one slot. Make it with Decide.
type Decision[In, Out any] struct {
	core    *decisionCore
	body    func(*Tx, In) Out
	flights sync.Pool
}

// decisionCore is what an engine needs to know of a decision.
type decisionCore struct {
	name    string
	lua     string
	sha1    string // of lua, hex
	command []string
	in, out shape
}

// call is one decision on its way. It is the engine's until do returns.
type call struct {
	keys     []string
	args     func() []string // ARGV; made only for a remote engine
	channels []int           // which of args are channels, and get the prefix that keys get
	run      func(*Tx)       // the Go body
}

// flight is a call with what goes in and comes out of it. They are used again, because all
// together are most of what a decision would allocate.
type flight[In, Out any] struct {
	d    *Decision[In, Out]
	in   In
	out  Out
	vin  reflect.Value // of in
	vout reflect.Value // of out
	call call
}

func (d *Decision[In, Out]) newFlight() *flight[In, Out] {
	f := &flight[In, Out]{d: d}
	f.vin, f.vout = reflect.ValueOf(&f.in).Elem(), reflect.ValueOf(&f.out).Elem()
	f.call = call{
		keys:     make([]string, 0, d.core.in.nkeys),
		args:     func() []string { return d.core.in.args(f.vin) },
		channels: d.core.in.channels,
		run:      f.run,
	}
	return f
}

func (f *flight[In, Out]) run(tx *Tx) {
	f.out = f.d.body(tx, f.in)
	if err := f.d.core.out.check(f.vout); err != nil {
		tx.fail(err)
	}
}

// land keeps f for another call, without what this one knew.
func (f *flight[In, Out]) land() {
	var in In
	var out Out
	f.in, f.out = in, out
	clear(f.call.keys)
	f.call.keys = f.call.keys[:0]
	f.d.flights.Put(f)
}

// Decide declares a decision. Names are for errors and metrics: "package.verb".
//
// In is a struct: a string field tagged `store:"key"` is a key, a []string field so tagged as many
// keys as it has elements (together at least one), every other field an argument: string (tagged `store:"channel"` where it names a channel), int64, bool (1 or 0), and as the
// last field, if there is one, []string (its elements). Out is a struct of int64, string, bool
// and []string. All keys of one call share a slot.
//
// Decide panics when In or Out have another shape, because that is a mistake in the program.
func Decide[In, Out any](name string, remote Remote, body func(*Tx, In) Out) *Decision[In, Out] {
	in, err := shapeOf(reflect.TypeFor[In](), true)
	if err != nil {
		panic(fmt.Sprintf("store: decision %s: %v", name, err))
	}
	out, err := shapeOf(reflect.TypeFor[Out](), false)
	if err != nil {
		panic(fmt.Sprintf("store: decision %s: %v", name, err))
	}
	if remote.command != nil && len(out.kinds) != 1 {
		panic(fmt.Sprintf("store: decision %s: the reply of a command is one field", name))
	}
	core := &decisionCore{name: name, lua: remote.lua, command: remote.command, in: in, out: out}
	sum := sha1.Sum([]byte(remote.lua))
	core.sha1 = hex.EncodeToString(sum[:])
	d := &Decision[In, Out]{core: core, body: body}
	d.flights.New = func() any { return d.newFlight() }
	return d
}

// Name is the name that the decision was declared with.
func (d *Decision[In, Out]) Name() string { return d.core.name }

// WithRemote is the same decision with another body for remote engines. It exists for tests
// that seed an error and expect to see it found.
func (d *Decision[In, Out]) WithRemote(remote Remote) *Decision[In, Out] {
	return Decide(d.core.name, remote, d.body)
}

// Source is the script, empty when the body is a command.
func (d *Decision[In, Out]) Source() string { return d.core.lua }

// Do makes the decision on s and returns when its effects are as durable as the engine's
// class promises, or with one of the package's errors. It waits no longer than ctx and
// Options.Timeout allow.
func (d *Decision[In, Out]) Do(ctx context.Context, s *Store, in In) (Out, error) {
	var none Out
	f := d.flights.Get().(*flight[In, Out])
	f.in = in
	if err := d.core.in.check(f.vin); err != nil {
		return none, fmt.Errorf("%s: %w", d.core.name, err)
	}
	f.call.keys = d.core.in.keys(f.call.keys, f.vin)
	var began time.Time
	if s.observe != nil {
		began = time.Now()
	}
	reply, err := s.engine.do(ctx, d.core, f.call)
	if s.observe != nil {
		s.observe(d.core.name, time.Since(began), err)
	}
	if err == nil && reply != nil {
		err = d.core.out.decode(reply, f.vout)
	}
	if err != nil {
		return none, fmt.Errorf("%s: %w", d.core.name, err)
	}
	out := f.out
	f.land()
	return out, nil
}

type kind int

const (
	kindKey kind = iota
	kindString
	kindInt
	kindBool
	kindStrings
	kindKeys
)

// shape is how a struct travels: the kind of each field in order.
type shape struct {
	kinds    []kind
	nkeys    int   // fields that are keys
	channels []int // positions in ARGV
}

func shapeOf(t reflect.Type, in bool) (shape, error) {
	var s shape
	if t.Kind() != reflect.Struct {
		return s, fmt.Errorf("%s is not a struct", t)
	}
	for i := range t.NumField() {
		f := t.Field(i)
		k, err := kindOf(f, in)
		if err != nil {
			return s, err
		}
		switch {
		case k == kindKey || k == kindKeys:
			s.nkeys++
		case k == kindStrings && in && i != t.NumField()-1:
			return s, fmt.Errorf("%s.%s: []string must be the last field", t, f.Name)
		case f.Tag.Get("store") == "channel":
			s.channels = append(s.channels, i-s.nkeys)
		}
		s.kinds = append(s.kinds, k)
	}
	if in && s.nkeys == 0 {
		return s, fmt.Errorf("%s has no field tagged `store:\"key\"`", t)
	}
	return s, nil
}

func kindOf(f reflect.StructField, in bool) (kind, error) {
	tag := f.Tag.Get("store")
	if !f.IsExported() {
		return 0, fmt.Errorf("field %s is not exported", f.Name)
	}
	several := f.Type == reflect.TypeFor[[]string]()
	if tag != "" && (!in || (tag != "key" && tag != "channel") || f.Type.Kind() != reflect.String && (tag != "key" || !several)) {
		return 0, fmt.Errorf("field %s: tag %q does not fit", f.Name, tag)
	}
	switch {
	case tag == "key" && several:
		return kindKeys, nil
	case tag == "key":
		return kindKey, nil
	case f.Type.Kind() == reflect.String:
		return kindString, nil
	case f.Type.Kind() == reflect.Int64:
		return kindInt, nil
	case f.Type.Kind() == reflect.Bool:
		return kindBool, nil
	case several:
		return kindStrings, nil
	}
	return 0, fmt.Errorf("field %s: type %s cannot travel", f.Name, f.Type)
}

// check refuses integers that Lua could not hold.
func (s *shape) check(v reflect.Value) error {
	for i, k := range s.kinds {
		if k == kindInt {
			if n := v.Field(i).Int(); n > MaxInt || n < MinInt {
				return fmt.Errorf("%w: %s is %d", ErrRange, v.Type().Field(i).Name, n)
			}
		}
	}
	return nil
}

func (s *shape) keys(keys []string, v reflect.Value) []string {
	for i, k := range s.kinds {
		switch k {
		case kindKey:
			keys = append(keys, v.Field(i).String())
		case kindKeys:
			keys = append(keys, v.Field(i).Interface().([]string)...)
		}
	}
	return keys
}

func (s *shape) args(v reflect.Value) []string {
	args := make([]string, 0, len(s.kinds))
	for i, k := range s.kinds {
		switch f := v.Field(i); k {
		case kindString:
			args = append(args, f.String())
		case kindInt:
			args = append(args, strconv.FormatInt(f.Int(), 10))
		case kindBool:
			if f.Bool() {
				args = append(args, "1")
			} else {
				args = append(args, "0")
			}
		case kindStrings:
			args = append(args, f.Interface().([]string)...)
		}
	}
	return args
}

// decode reads a reply into the fields of Out. A mismatch is a mistake in the script.
func (s *shape) decode(reply []any, v reflect.Value) error {
	if len(reply) != len(s.kinds) {
		return fmt.Errorf("%w: the reply has %d elements, not %d", ErrOutcomeUnknown, len(reply), len(s.kinds))
	}
	for i, k := range s.kinds {
		if err := decodeField(reply[i], k, v.Field(i)); err != nil {
			return fmt.Errorf("%w: element %d of the reply: %w", ErrOutcomeUnknown, i+1, err)
		}
	}
	return nil
}

func decodeField(x any, k kind, f reflect.Value) error {
	if x == nil {
		return nil // false or nil in Lua: the zero value
	}
	switch k {
	case kindInt, kindBool:
		n, err := decodeInt(x)
		if err != nil {
			return err
		}
		if k == kindBool {
			f.SetBool(n != 0)
		} else {
			f.SetInt(n)
		}
	case kindString:
		s, err := decodeString(x)
		if err != nil {
			return err
		}
		f.SetString(s)
	case kindStrings:
		list, ok := x.([]any)
		if !ok {
			return fmt.Errorf("%T is not a list", x)
		}
		all := make([]string, len(list))
		for i, e := range list {
			s, err := decodeString(e)
			if err != nil {
				return err
			}
			all[i] = s
		}
		if len(all) > 0 {
			f.Set(reflect.ValueOf(all))
		}
	}
	return nil
}

func decodeInt(x any) (int64, error) {
	switch x := x.(type) {
	case int64:
		return x, nil
	case string:
		n, err := strconv.ParseInt(x, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("%q is not an integer", x)
		}
		return n, nil
	}
	return 0, fmt.Errorf("%T is not an integer", x)
}

func decodeString(x any) (string, error) {
	switch x := x.(type) {
	case string:
		return x, nil
	case int64:
		return strconv.FormatInt(x, 10), nil
	}
	return "", fmt.Errorf("%T is not a string", x)
}
