package ratelimit

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"strings"
)

// Entry is one step of a descriptor: what is said of a request, from the general to the particular.
type Entry struct{ Key, Value string }

// level is a list of descriptors of a rule file.
type level struct {
	exact map[Entry]*branch // with a value
	any   map[string]*branch
	wild  []*branch // whose value ends in a star, in the order of the file
}

// branch is a descriptor of a rule file.
type branch struct {
	key, prefix string // of wild ones
	limits      *limits
	below       *level
}

// Match finds the rules of a file's domain for descriptors, as envoyproxy/ratelimit does: level by level, an
// entry with the value before one whose value is its beginning and a star before one without a value; a
// descriptor needs a rule at exactly its length. Rules that others of the same call replace are left
// out. Which[i] is the descriptor of requests[i]; one that matches nothing has none.
func (s *Rules) Match(domain string, cost int64, descriptors ...[]Entry) (requests []Request, which []int) {
	var found []*limits
	for i, d := range descriptors {
		all := s.domains[domain].find(d)
		if all == nil {
			continue
		}
		requests = append(requests, Request{Rule: all.Name, Domain: domain, Key: keyOf(d), Cost: cost, matched: all.forEntries(d)})
		which = append(which, i)
		found = append(found, all)
	}
	for i := len(found) - 1; i >= 0; i-- {
		if slices.ContainsFunc(found, func(other *limits) bool { return found[i].name != "" && slices.Contains(other.instead, found[i].name) }) {
			requests, which = slices.Delete(requests, i, i+1), slices.Delete(which, i, i+1)
		}
	}
	return requests, which
}

func (l *level) find(d []Entry) *limits {
	for i, e := range d {
		b := l.branch(e)
		if b == nil {
			return nil
		}
		if i == len(d)-1 {
			return b.limits
		}
		l = b.below
	}
	return nil
}

func (l *level) branch(e Entry) *branch {
	if l == nil {
		return nil
	}
	if b := l.exact[e]; b != nil {
		return b
	}
	for _, b := range l.wild {
		if b.key == e.Key && strings.HasPrefix(e.Value, b.prefix) {
			return b
		}
	}
	return l.any[e.Key]
}

// forEntries is the override for one of the entries, or the rule itself.
func (l *limits) forEntries(d []Entry) *limit {
	for _, e := range d {
		if over := l.byEntry[e]; over != nil {
			return over
		}
	}
	return l.limit
}

// keyOf is whose count a descriptor's is: its values; what cannot be a key is hashed.
func keyOf(d []Entry) string {
	values := make([]string, len(d))
	for i, e := range d {
		values[i] = escape(e.Value)
	}
	key := strings.Join(values, "/")
	if !plain(key, maxKey) {
		sum := sha256.Sum256([]byte(key))
		return "sha256:" + hex.EncodeToString(sum[:])
	}
	return key
}
