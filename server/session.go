package server

import (
	"crypto/rand"
	"sync"
	"sync/atomic"

	"github.com/mark3labs/mcp-go/mcp"
	mcpserver "github.com/mark3labs/mcp-go/server"
)

// session is the mcp-go session of one connection. mcp-go's own stdio session is a global variable, which two connections
// in one process would share.
type session struct {
	id            string
	write         func(v any) error
	notifications chan mcp.JSONRPCNotification // the queue of mcp-go
	flushing      sync.Mutex                   // held while the queue is written
	initialized   atomic.Bool

	mu           sync.Mutex
	version      string
	client       mcp.Implementation
	capabilities mcp.ClientCapabilities
}

var (
	_ mcpserver.SessionWithClientInfo      = (*session)(nil)
	_ mcpserver.SessionWithProtocolVersion = (*session)(nil)
	_ notifier                             = (*session)(nil)
)

func newSession(write func(v any) error) *session {
	return &session{id: rand.Text(), write: write, notifications: make(chan mcp.JSONRPCNotification, 100)}
}

// flush writes the notifications that mcp-go has queued. When it returns, the notifications that a concurrent call has taken
// from the queue are written too.
func (s *session) flush() {
	s.flushing.Lock()
	defer s.flushing.Unlock()
	for {
		select {
		case n := <-s.notifications:
			_ = s.write(n) // a failed write ends the connection
		default:
			return
		}
	}
}

// notify implements [notifier].
func (s *session) notify(n mcp.JSONRPCNotification) error { return s.write(n) }

func (s *session) SessionID() string { return s.id }
func (s *session) Initialize()       { s.initialized.Store(true) }
func (s *session) Initialized() bool { return s.initialized.Load() }

func (s *session) NotificationChannel() chan<- mcp.JSONRPCNotification { return s.notifications }

func (s *session) GetClientInfo() mcp.Implementation {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.client
}

func (s *session) SetClientInfo(i mcp.Implementation) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.client = i
}

func (s *session) GetClientCapabilities() mcp.ClientCapabilities {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.capabilities
}

func (s *session) SetClientCapabilities(c mcp.ClientCapabilities) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.capabilities = c
}

func (s *session) ProtocolVersion() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.version
}

func (s *session) SetProtocolVersion(v string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.version = v
}
