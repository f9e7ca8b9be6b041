package ratelimit

// Resume is the reservation that a Reserve with this id and these requests made, in whichever process, to commit, refund or renew
// it here. It asks nobody: that there is no such reservation says Commit. The requests have to be the same, which is not checked:
// give each call an id of its own. Rules in Shadow keep what was guessed, and a reservation that was made while the store
// was gone is not to be had anywhere. Errors: ErrInvalid, ErrSlots.
func (l *Limiter) Resume(id string, reqs []Request) (*Reservation, error) {
	if err := checkID(id); err != nil {
		return nil, err
	}
	d, steps, err := l.plan(reqs, true)
	if err != nil {
		return nil, err
	}
	d.Source = FromStore
	for _, s := range steps {
		for _, w := range s.all {
			w.passed = w.Shadow // whether it took anything only the first process was told
		}
		d.calls = append(d.calls, made{step: s, by: l, where: l.store.Load(), id: id, kept: true, parts: 1})
	}
	return &Reservation{Decision: d, n: len(reqs)}, nil
}
