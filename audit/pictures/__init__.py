"""What an audit finds on the pictures themselves: copies and technical quality."""
