package ratelimit

import "strconv"

// Override is a request by a quota that the descriptor brings along, as Envoy's routes can have it: the descriptor
// need not match a rule, and what a rule would say does not count. As with envoyproxy/ratelimit the domain has to be
// one of a rule file, otherwise ok is false, and a limit of 0 blocks. It counts by fixed windows, apart from the rules, and
// apart from overrides with other windows. Errors: ErrInvalid.
func (s *Rules) Override(domain string, cost int64, d []Entry, q Quota) (r Request, ok bool, err error) {
	if s.domains[domain] == nil {
		return Request{}, false, nil
	}
	if len(d) == 0 || len(d) > maxDepth {
		return Request{}, false, invalid("entries", "%d are not 1..%d", len(d), maxDepth)
	}
	keys := make([]string, len(d))
	for i, e := range d {
		keys[i] = e.Key
	}
	path := escapePath(keys)
	rule := Rule{Name: path, Domain: domain, Algorithm: FixedWindow, Quota: q, Blocked: q.Limit == 0}
	if rule.Blocked {
		rule.Quota = Quota{}
	}
	if rule, err = rule.withDefaults(); err != nil {
		return Request{}, false, err
	}
	lim, err := newLimit(&rule, rule.Quota)
	if err != nil {
		return Request{}, false, err
	}
	lim.called(path + ":" + strconv.FormatInt(lim.span, 10)) // no rule's: theirs have no colon
	return Request{Rule: rule.Name, Domain: domain, Key: keyOf(d), Cost: cost, matched: lim}, true, nil
}

// NameOf is the name that a rule file gives to the rule of a request, "" if it gives none.
func (s *Rules) NameOf(r Request) string {
	if all := s.named[name{r.Domain, r.Rule}]; all != nil {
		return all.name
	}
	return ""
}
