"""What several test files share: networks, images and inputs that they make themselves."""
