package ratelimit

import (
	"fmt"
	"slices"
)

// Rules is a set of rules, checked and ready. It does not change.
type Rules struct {
	named   map[name]*limits
	domains map[string]*level // of rule files
}

type name struct{ domain, name string }

// limits are a rule's quota and what replaces it for some.
type limits struct {
	*limit
	byKey   map[string]*limit
	byEntry map[Entry]*limit // of rule files
	name    string           // of rule files: what others replace it by
	instead []string         // names that it replaces
}

// NewRules checks rules and makes a set of them. Errors: ErrInvalid with the rule's name, and ErrSlots.
func NewRules(rules ...Rule) (*Rules, error) {
	set := &Rules{named: map[name]*limits{}, domains: map[string]*level{}}
	for _, r := range rules {
		if _, err := set.add(r); err != nil {
			return nil, fmt.Errorf("rule %.40q: %w", r.Name, err)
		}
	}
	return set, set.oneSlot()
}

func (s *Rules) add(r Rule) (*limits, error) {
	r, err := r.withDefaults()
	if err != nil {
		return nil, err
	}
	if s.named[name{r.Domain, r.Name}] != nil {
		return nil, invalid("Name", "is there twice in domain %q", r.Domain)
	}
	base, err := newLimit(&r, r.Quota)
	if err != nil {
		return nil, err
	}
	if err := r.leasable(base.most); err != nil {
		return nil, err
	}
	all := &limits{limit: base, byKey: map[string]*limit{}}
	for key, q := range r.Overrides {
		if !plain(key, maxKey) {
			return nil, invalid("Overrides", "%.40q is not a key", key)
		}
		if all.byKey[key], err = newLimit(&r, q); err != nil {
			return nil, fmt.Errorf("override for %.40q: %w", key, err)
		}
	}
	s.named[name{r.Domain, r.Name}] = all
	return all, nil
}

// oneSlot refuses domains whose rules could not be decided in one step.
func (s *Rules) oneSlot() error {
	tags := map[string]*limit{}
	for _, n := range s.names() {
		l := s.named[n].limit
		if l.Independent || l.Blocked || l.Unlimited {
			continue
		}
		if first := tags[n.domain]; first == nil {
			tags[n.domain] = l
		} else if first.Tag != l.Tag {
			return fmt.Errorf("%w: of domain %q, rule %q has tag %q and rule %q tag %q", ErrSlots, n.domain, first.Name, first.Tag, l.Name, l.Tag)
		}
	}
	return nil
}

// names are in the order of the alphabet, so that an error is the same each time.
func (s *Rules) names() []name {
	all := make([]name, 0, len(s.named))
	for n := range s.named {
		all = append(all, n)
	}
	slices.SortFunc(all, func(a, b name) int {
		return slices.Compare([]string{a.domain, a.name}, []string{b.domain, b.name})
	})
	return all
}

// All are the rules, by domain and name. Overrides of rule files, which go by descriptors, are left out.
func (s *Rules) All() []Rule {
	all := make([]Rule, 0, len(s.named))
	for _, n := range s.names() {
		all = append(all, *s.named[n].Rule)
	}
	return all
}

// Len is how many rules there are.
func (s *Rules) Len() int { return len(s.named) }
