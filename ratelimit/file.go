package ratelimit

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// File is the text of a rule file and its name for errors.
type File struct {
	Name string
	Text []byte
}

// FileError says where a rule file is wrong. It is an ErrInvalid.
type FileError struct {
	File string
	Line int
	Err  error
}

func (e *FileError) Error() string { return fmt.Sprintf("%s:%d: %v", e.File, e.Line, e.Err) }

// Unwrap is the reason.
func (e *FileError) Unwrap() error { return e.Err }

// maxFile bounds a rule file, maxDepth how deep its descriptors are nested.
const (
	maxFile  = 1 << 20
	maxDepth = 16
)

// LoadRules reads rule files, see ParseRules. One error, and none of them holds.
func LoadRules(paths ...string) (*Rules, error) {
	var files []File
	for _, path := range paths {
		f, err := os.Open(path)
		if err != nil {
			return nil, fmt.Errorf("ratelimit: rules: %w", err)
		}
		text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
		if err := errors.Join(err, f.Close()); err != nil {
			return nil, fmt.Errorf("ratelimit: rules: %w", err)
		}
		files = append(files, File{path, text})
	}
	return ParseRules(files...)
}

// ParseRules reads rule files, of up to 1 MiB and one domain each. They are YAML as envoyproxy/ratelimit
// documents it, and such a file means what it means there:
//
//	domain: shop
//	descriptors:
//	  - key: tenant            # each tenant
//	    rate_limit: {unit: minute, requests_per_unit: 100}
//	  - key: tenant
//	    value: acme            # this one instead; a value may end in a star
//	    shadow_mode: true
//	    rate_limit: {unit: minute, requests_per_unit: 1000}
//	    descriptors: [...]     # more entries, to any depth up to 16
//
// A unit is second, minute, hour, day, week, month (30 days) or year (365 days). In rate_limit unlimited, name
// and replaces are taken as there; requests_per_unit 0 blocks. detailed_metric and
// value_to_metric are read, and say nothing yet.
// A file counts by fixed windows unless it says more, which is ours:
//
//	rate_limit:
//	  algorithm: token-bucket  # see Algorithm
//	  window: 90s              # instead of unit
//	  burst: 20                # buckets
//	  lease: 30s               # concurrency
//	  on_error: closed         # see Policy
//	  independent: true        # see Rule
//	  leased: 100              # see Rule
//	  overrides:               # where the descriptor has this entry, at whatever depth
//	    - {key: tenant, value: acme, unit: minute, requests_per_unit: 1000}
//
// A rule is called by the path of its entries ("tenant=acme/path"), and counts by the path of their keys, so that
// a value that gets a rule of its own keeps its count. YAML aliases are refused. Errors: a *FileError
// with file and line; ErrSlots.
func ParseRules(files ...File) (*Rules, error) {
	set := &Rules{named: map[name]*limits{}, domains: map[string]*level{}}
	for _, f := range files {
		if line, err := set.parse(f.Text); err != nil {
			return nil, &FileError{f.Name, line, err}
		}
	}
	return set, set.oneSlot()
}

func (s *Rules) parse(text []byte) (line int, err error) {
	defer func() {
		if r := recover(); r != nil { // the YAML library's mistakes are not the caller's end
			line, err = 1, fmt.Errorf("%w: not YAML that can be read", ErrInvalid)
		}
	}()
	if len(text) > maxFile {
		return 1, invalid("file", "has more than %d bytes", maxFile)
	}
	if line := tooDeep(text); line > 0 {
		return line, invalid("file", "is nested deeper than %d", maxNested)
	}
	doc, err := parser.ParseBytes(text, 0)
	if err != nil {
		return yamlError(err)
	}
	if len(doc.Docs) != 1 || doc.Docs[0].Body == nil {
		return 1, invalid("file", "is not one YAML document")
	}
	var root fileRoot
	if err := yaml.NodeToValue(doc.Docs[0].Body, &root, yaml.DisallowUnknownField()); err != nil {
		return yamlError(err)
	}
	switch {
	case root.Domain == "":
		return 1, invalid("domain", "is empty")
	case s.domains[string(root.Domain)] != nil:
		return 1, invalid("domain", "%q is there twice", root.Domain)
	}
	b := builder{set: s, domain: string(root.Domain)}
	top, err := b.level(root.Descriptors, nil, 0)
	if err != nil {
		return b.line, err
	}
	s.domains[b.domain] = top
	return 0, nil
}

// maxNested bounds brackets that are open, and lists that begin in one line.
const maxNested = 64

// tooDeep is the line of what is nested so deep that the YAML library would take too long over it, or 0. It
// does not know what stands in quotes or comments.
func tooDeep(text []byte) int {
	line, open, lists, before := 1, 0, 0, byte(0)
	for _, c := range text {
		switch {
		case c == '\n':
			line, lists = line+1, 0
		case c == '[' || c == '{':
			open++
		case c == ']' || c == '}':
			open = max(open-1, 0)
		case c == ' ' && (before == '-' || before == '?'):
			lists++
		}
		if before = c; open > maxNested || lists > maxNested {
			return line
		}
	}
	return 0
}

func yamlError(err error) (line int, _ error) {
	line = 1
	var where yaml.Error
	if errors.As(err, &where) {
		if t := where.GetToken(); t != nil && t.Position != nil {
			line = max(t.Position.Line, 1)
		}
		return line, fmt.Errorf("%w: %s", ErrInvalid, where.GetMessage())
	}
	text, _, _ := strings.Cut(err.Error(), "\n")
	return line, fmt.Errorf("%w: %s", ErrInvalid, text)
}

// fileRoot, fileDescriptor and fileLimit are a file as it is written.
type fileRoot struct {
	Domain      scalar           `yaml:"domain"`
	Descriptors []fileDescriptor `yaml:"descriptors"`
}

type fileDescriptor struct {
	Key            scalar           `yaml:"key"`
	Value          scalar           `yaml:"value"`
	RateLimit      *fileLimit       `yaml:"rate_limit"`
	ShadowMode     bool             `yaml:"shadow_mode"`
	DetailedMetric bool             `yaml:"detailed_metric"`
	ValueToMetric  bool             `yaml:"value_to_metric"`
	Descriptors    []fileDescriptor `yaml:"descriptors"`

	line int
}

type fileLimit struct {
	Amount    fileQuota `yaml:",inline"`
	Unlimited bool      `yaml:"unlimited"`
	Name      scalar    `yaml:"name"`
	Replaces  []struct {
		Name scalar `yaml:"name"`
	} `yaml:"replaces"`
	Algorithm   scalar         `yaml:"algorithm"`
	OnError     scalar         `yaml:"on_error"`
	Independent bool           `yaml:"independent"`
	Leased      int            `yaml:"leased"`
	Overrides   []fileOverride `yaml:"overrides"`
}

type fileQuota struct {
	Unit            scalar        `yaml:"unit"`
	RequestsPerUnit *int64        `yaml:"requests_per_unit"`
	Window          time.Duration `yaml:"window"`
	Burst           int64         `yaml:"burst"`
	Lease           time.Duration `yaml:"lease"`
}

type fileOverride struct {
	Key    scalar    `yaml:"key"`
	Value  scalar    `yaml:"value"`
	Amount fileQuota `yaml:",inline"`
}

// scalar is text, also where YAML would see a number or a truth.
type scalar string

func (s *scalar) UnmarshalYAML(_ context.Context, n ast.Node) error {
	switch n := n.(type) {
	case *ast.NullNode:
		*s = ""
		return nil
	case *ast.LiteralNode:
		*s = scalar(n.Value.Value)
		return nil
	case ast.ScalarNode:
		*s = scalar(n.GetToken().Value)
		return nil
	}
	return &yaml.UnexpectedNodeTypeError{Actual: n.Type(), Expected: ast.StringType, Token: n.GetToken()}
}

// UnmarshalYAML notes the line.
func (d *fileDescriptor) UnmarshalYAML(_ context.Context, n ast.Node) error {
	type same fileDescriptor
	if err := yaml.NodeToValue(n, (*same)(d), yaml.DisallowUnknownField()); err != nil {
		return err
	}
	if t := n.GetToken(); t != nil && t.Position != nil {
		d.line = t.Position.Line
	}
	return nil
}
