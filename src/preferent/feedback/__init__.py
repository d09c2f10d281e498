"""What people said about some options, whoever the people were: agreement between them, and a simulated crowd."""
