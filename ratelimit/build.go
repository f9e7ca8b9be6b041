package ratelimit

import (
	"fmt"
	"strings"
	"time"
)

// builder makes rules of a file's descriptors.
type builder struct {
	set    *Rules
	domain string
	line   int // of the descriptor that is being made
}

func (b *builder) level(all []fileDescriptor, above []Entry, depth int) (*level, error) {
	if len(all) == 0 {
		return &level{}, nil
	}
	if depth >= maxDepth {
		return nil, invalid("descriptors", "are nested deeper than %d", maxDepth)
	}
	l := &level{exact: map[Entry]*branch{}, any: map[string]*branch{}}
	for _, d := range all {
		b.line = d.line
		path := append(above[:len(above):len(above)], Entry{string(d.Key), string(d.Value)})
		br := &branch{key: string(d.Key)}
		if err := b.put(l, br, d); err != nil {
			return nil, err
		}
		if d.RateLimit != nil {
			limits, err := b.rule(d, path)
			if err != nil {
				return nil, err
			}
			br.limits = limits
		}
		var err error
		if br.below, err = b.level(d.Descriptors, path, depth+1); err != nil {
			return nil, err
		}
	}
	return l, nil
}

// put gives a branch its place.
func (b *builder) put(l *level, br *branch, d fileDescriptor) error {
	e := Entry{string(d.Key), string(d.Value)}
	prefix, wild := strings.CutSuffix(e.Value, "*")
	twice := l.any[e.Key] != nil
	if e.Value != "" {
		twice = l.exact[e] != nil
	}
	switch {
	case e.Key == "":
		return invalid("key", "of a descriptor is empty")
	case twice:
		return invalid("descriptors", "have key %.40q with value %.40q twice", e.Key, e.Value)
	case e.Value == "":
		l.any[e.Key] = br
		return nil
	case wild:
		br.prefix = prefix
		l.wild = append(l.wild, br)
	}
	l.exact[e] = br // of wild ones too: to find them twice
	return nil
}

func (b *builder) rule(d fileDescriptor, path []Entry) (*limits, error) {
	f := d.RateLimit
	r := Rule{Domain: b.domain, Algorithm: Algorithm(f.Algorithm), OnError: Policy(f.OnError), Shadow: d.ShadowMode,
		Independent: f.Independent, Leased: f.Leased, Unlimited: f.Unlimited}
	if r.Algorithm == "" {
		r.Algorithm = FixedWindow
	}
	var names, keys []string
	for _, e := range path {
		keys = append(keys, e.Key)
		if e.Value != "" {
			e.Key += "=" + e.Value
		}
		names = append(names, e.Key)
	}
	r.Name = strings.Join(names, "/")
	if !r.Unlimited {
		q, err := f.Amount.quota(r.Algorithm)
		if err != nil {
			return nil, err
		}
		if r.Quota = q; q.Limit == 0 {
			r.Blocked, r.Quota = true, Quota{}
		}
	} else if f.Amount != (fileQuota{}) {
		return nil, invalid("unit", "of an unlimited rule stays empty")
	}
	all, err := b.set.add(r)
	if err != nil {
		return nil, err
	}
	all.limit.called(escapePath(keys))
	return all, b.refine(all, f)
}

// refine adds what only files have.
func (b *builder) refine(all *limits, f *fileLimit) error {
	all.name, all.byEntry = string(f.Name), map[Entry]*limit{}
	for _, r := range f.Replaces {
		if r.Name == "" || r.Name == f.Name {
			return invalid("replaces", "names nothing, or the rule itself")
		}
		all.instead = append(all.instead, string(r.Name))
	}
	if len(f.Overrides) > 0 && (all.Blocked || all.Unlimited) {
		return invalid("overrides", "are for rules with a limit")
	}
	for _, o := range f.Overrides {
		e := Entry{string(o.Key), string(o.Value)}
		if e.Key == "" || e.Value == "" || all.byEntry[e] != nil {
			return invalid("overrides", "need a key and a value, each pair once")
		}
		q, err := o.Amount.quota(all.Algorithm)
		if err != nil {
			return fmt.Errorf("override for %.40q: %w", e.Value, err)
		}
		over, err := newLimit(all.Rule, q)
		if err != nil {
			return fmt.Errorf("override for %.40q: %w", e.Value, err)
		}
		over.called(all.limit.id)
		all.byEntry[e] = over
	}
	return nil
}

var units = map[string]time.Duration{
	"second": time.Second, "minute": time.Minute, "hour": time.Hour, "day": 24 * time.Hour,
	"week": 7 * 24 * time.Hour, "month": 30 * 24 * time.Hour, "year": 365 * 24 * time.Hour,
}

func (f fileQuota) quota(a Algorithm) (Quota, error) {
	q := Quota{Window: f.Window, Burst: f.Burst, Lease: f.Lease}
	unit, known := units[strings.ToLower(string(f.Unit))]
	switch {
	case f.RequestsPerUnit == nil:
		return q, invalid("requests_per_unit", "is missing")
	case f.Unit != "" && !known:
		return q, invalid("unit", "%.40q is not second, minute, hour, day, week, month or year", f.Unit)
	case known && f.Window != 0:
		return q, invalid("window", "and unit exclude each other")
	case known:
		q.Window = unit
	case f.Window == 0 && a != Concurrency:
		return q, invalid("unit", "is missing")
	}
	q.Limit = *f.RequestsPerUnit
	return q, nil
}

// escapePath is the id of a rule: its keys.
func escapePath(keys []string) string {
	for i, k := range keys {
		keys[i] = escape(k)
	}
	return strings.Join(keys, "/")
}
