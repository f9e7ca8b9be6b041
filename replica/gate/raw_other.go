//go:build !unix

package gate

import (
	"net"
	"syscall"
)

func rawConn(net.Conn) syscall.RawConn { return nil }

func (s *stream) tryRead(uintptr) bool { return true } // not used: there is no raw connection

func tryWrite(syscall.RawConn, []byte) int { return 0 }
