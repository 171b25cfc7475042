package server

import (
	"context"
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
	notifications chan mcp.JSONRPCNotification
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

// forward writes the notifications that mcp-go itself sends, until ctx ends or a write fails.
func (s *session) forward(ctx context.Context) {
	for {
		select {
		case n := <-s.notifications:
			if s.write(n) != nil {
				return // the failed write has already ended the connection
			}
		case <-ctx.Done():
			return
		}
	}
}

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
