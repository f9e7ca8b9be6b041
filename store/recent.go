package store

// mostRecent bounds what is kept of a key and its record, in bytes each.
const mostRecent = 128

// recent is the record of the key that a slot's last decision touched first, as it is stored: of
// a key that many want, each decision finds here what the last one has left, and need not ask
// Pebble. Only decisions on the slot write there, one after the other.
type recent struct {
	known  bool
	key    []byte
	record []byte // empty when nothing is stored
}

func (r *recent) get(key string) (record string, ok, known bool) {
	if !r.known || string(r.key) != key {
		return "", false, false
	}
	return string(r.record), len(r.record) > 0, true
}

// keep takes over from a Tx that was applied.
func (r *recent) keep(entries []*entry) {
	if len(entries) == 0 {
		return // none was touched, and none has changed
	}
	e := entries[0] // it takes the other's place even if it cannot be kept: that may have changed too
	if r.known = len(e.key) <= mostRecent && len(e.rec.value)+len(e.stored.value) <= mostRecent; !r.known {
		return
	}
	r.key = append(r.key[:0], e.key...)
	now := e.stored
	if e.changed() {
		now = e.rec
	}
	if r.record = r.record[:0]; now.typ != typeNone {
		now.place = e.place
		r.record = now.append(r.record)
	}
}
