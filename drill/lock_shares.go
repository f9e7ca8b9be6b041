package drill

import "slices"

// everything is what one takes of a name who has it alone, where others share it.
const everything = 1 << 31

// share is what a lease takes of its name, of how much.
func (t tenure) share() (permits, of int64) {
	switch {
	case t.of > 0:
		return t.permits, t.of
	case t.shared:
		return 1, everything
	}
	return everything, everything
}

// sharing: several may have the name.
func sharing(all []tenure) bool {
	return slices.ContainsFunc(all, func(t tenure) bool { return t.shared || t.of > 0 })
}

// sure is the end of the time in which a lease was held, whatever its holder believed later.
func (t tenure) sure() int64 {
	if t.heldUntilReleased() {
		return t.released
	}
	return t.knew
}

// together finds times in which more of a name was held than there is: an exclusive lease beside any
// other one, or more permits than the semaphore has. It counts the leases that began beside others.
func together(where string, all []tenure, jumped func(tenure) bool, wrong *findings) (beside int) {
	for _, t := range all {
		used, of := t.share()
		if t.got >= t.sure() || jumped(t) {
			continue
		}
		others := 0
		for _, o := range all {
			if o.token != t.token && !jumped(o) && o.got <= t.got && t.got < o.sure() {
				permits, _ := o.share()
				used, others = used+permits, others+1
			}
		}
		if others > 0 {
			beside++
		}
		if used > of {
			wrong.add("%s: holder %d was given %d beside %d others that were held: more than there is", where, t.who, t.token, others)
		}
	}
	return beside
}
