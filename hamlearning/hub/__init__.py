"""What is published and served: repos, cards, the endpoint's handler."""
